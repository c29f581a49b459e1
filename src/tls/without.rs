//! What there is of TLS in a program that was built without it: types of which there is no value.

use super::{Expiry, Stream};
use crate::config::{TlsListen, TlsSend};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

/// Only the configuration could ask for it, and is refused.
const MISSING: &str = "this logd was built without TLS";

/// A client's certificate.
pub enum Certificate {}

impl Certificate {
    /// Does it open the hours of this sender?
    pub fn opens(&self, _name: &str) -> bool {
        match *self {}
    }

    /// Whose it is, for messages.
    pub fn label(&self) -> String {
        match *self {}
    }
}

/// The receiver's side.
pub enum Server {}

impl Server {
    /// An error.
    pub fn open(_: &TlsListen) -> Result<Self, String> {
        Err(MISSING.into())
    }

    /// Never called.
    pub fn refresh(&self) -> Option<Result<(), String>> {
        match *self {}
    }

    /// Never called.
    pub fn cas(&self) -> u64 {
        match *self {}
    }

    /// Never called.
    pub fn trusts(&self, _: &Certificate) -> Result<(), String> {
        match *self {}
    }

    /// Never called.
    pub fn expiries(&self) -> Vec<Expiry> {
        match *self {}
    }

    /// Never called.
    pub fn asks_for_certificates(&self) -> bool {
        match *self {}
    }

    /// Never called.
    pub fn accept(
        &self,
        _: Arc<TcpStream>,
        _: Instant,
    ) -> Result<Option<(Stream, Option<Certificate>)>, String> {
        match *self {}
    }
}

/// The sender's side.
pub enum Client {}

impl Client {
    /// An error.
    pub fn open(_: &TlsSend) -> Result<Self, String> {
        Err(MISSING.into())
    }

    /// Never called.
    pub fn expiries(&self) -> Vec<Expiry> {
        match *self {}
    }

    /// Never called.
    pub fn shown(&self, _host: &str) -> Option<(String, bool)> {
        match *self {}
    }

    /// Never called.
    pub fn connect(&self, _addr: &str, _: TcpStream, _: Instant) -> io::Result<Stream> {
        match *self {}
    }
}

pub(super) enum Session {}

impl Session {
    pub(super) fn read(&mut self, _: &mut impl Read, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(super) fn write(&mut self, _: &mut impl Write, _: &[u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(super) fn flush(&mut self, _: &mut impl Write) -> io::Result<()> {
        match *self {}
    }

    pub(super) fn close(&mut self, _: &mut impl Write) {
        match *self {}
    }

    pub(super) fn is_silent(&mut self, _: &mut impl Read) -> bool {
        match *self {}
    }
}

pub(super) fn explain(_: &io::Error) -> Option<String> {
    None
}
