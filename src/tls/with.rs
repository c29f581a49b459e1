//! TLS by rustls.

use super::{Expiry, HANDSHAKE, Stream, Timed};
use crate::config::allow::network;
use crate::config::{TlsListen, TlsSend};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, Error, RootCertStore,
    ServerConfig, ServerConnection,
};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const FILE_MAX: u64 = 1 << 20;
/// An alert, fatal, `protocol_version`: to one of ours that speaks without TLS it says what is missing, and to nobody `ok`.
const NO_TLS: [u8; 7] = [0x15, 3, 1, 0, 2, 2, 70];
/// 9999-12-31 23:59:59, the end of time in certificates.
const FOREVER: u64 = 253_402_300_799;

/// What tells that files are others now, or that others may read them now.
type Stamps = Vec<Option<(u64, u64, (i64, i64, i64, i64), u64, u32)>>;

fn stamps(paths: &[&Path]) -> Stamps {
    let stamp = |path: &&Path| {
        let m = std::fs::metadata(path).ok()?;
        let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        Some((m.dev(), m.ino(), times, m.size(), m.mode()))
    };
    paths.iter().map(stamp).collect()
}

fn read(key: &str, path: &Path, secret: bool) -> Result<Vec<u8>, String> {
    let at = format!("{key}: {}", path.display());
    let why = |e: io::Error| format!("{at}: {e}; make it readable for this user");
    // Asked before it is opened: a pipe would wait for its other end.
    let meta = std::fs::metadata(path).map_err(why)?;
    if !meta.is_file() {
        return Err(format!("{at}: it is no file"));
    }
    if secret && meta.mode() & 0o027 != 0 {
        return Err(format!(
            "{at}: mode {:04o} lets others read it or the group write it; chmod 0600, or 0640 for a group that may read it",
            meta.mode() & 0o7777
        ));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(FILE_MAX).read_to_end(&mut bytes)).map_err(why)?;
    if bytes.len() as u64 == FILE_MAX {
        return Err(format!("{at}: larger than {} MiB: this is no PEM file", FILE_MAX >> 20));
    }
    Ok(bytes)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(key, path, false)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => {
            Err(format!("{key}: {}: there is no certificate in it; PEM is wanted", path.display()))
        }
        Ok(all) => Ok(all),
        Err(e) => Err(format!("{key}: {}: {e}; PEM is wanted", path.display())),
    }
}

fn private_key(key: &str, path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(key, path, true)?) // Not the parser's words: they quote what it could not read.
        .map_err(|_| {
            format!(
                "{key}: {}: no private key in it that can be read; PEM without a passphrase is wanted",
                path.display()
            )
        })
}

fn roots(key: &str, path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for one in certificates(key, path)? {
        roots.add(one).map_err(|e| format!("{key}: {}: {e}", path.display()))?;
    }
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Both halves of a pair are named: it is not told which one is wrong.
fn pair<'a>(keys: [&str; 2], paths: [&'a Path; 2]) -> impl Fn(Error) -> String + use<'a> {
    let names = keys.join(" and ");
    move |e| {
        let [cert, key] = paths.map(Path::display);
        format!("{names}: {cert} and {key}: {e}; the key must be that of the first certificate in the file")
    }
}

/// When the first of a file's certificates expires.
fn expiry(key: &'static str, path: &Path) -> Option<Expiry> {
    let after = |one: &CertificateDer| {
        let cert = webpki::EndEntityCert::try_from(one).ok()?;
        // Nothing else in the interface tells its dates: a check beyond them all names the one that was missed.
        let end = UnixTime::since_unix_epoch(Duration::from_secs(FOREVER));
        let algorithms = ring::default_provider().signature_verification_algorithms;
        let usage = webpki::KeyUsage::server_auth();
        match cert.verify_for_usage(algorithms.all, &[], &[], end, usage, None, None) {
            Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
            // It ends before it begins.
            Err(webpki::Error::InvalidCertValidity) => Some(0),
            _ => None,
        }
    };
    let early = |one: &CertificateDer| {
        let cert = webpki::EndEntityCert::try_from(one).ok()?;
        let algorithms = ring::default_provider().signature_verification_algorithms;
        let usage = webpki::KeyUsage::server_auth();
        match cert.verify_for_usage(algorithms.all, &[], &[], UnixTime::now(), usage, None, None) {
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => Some(not_before.as_secs()),
            _ => None,
        }
    };
    let all = certificates(key, path).ok()?;
    let (not_after, not_before) = (all.iter().filter_map(after).min(), all.iter().filter_map(early).max());
    Some(Expiry { key, path: path.to_owned(), not_after, not_before })
}

/// A client's certificate, which was checked.
pub struct Certificate {
    der: CertificateDer<'static>,
    /// Those that the client showed with it.
    rest: Vec<CertificateDer<'static>>,
    /// It may send for every host.
    relay: bool,
}

impl Certificate {
    /// Does it open the hours of this sender?
    pub fn opens(&self, name: &str) -> bool {
        let host = name.split_once('+').map_or(name, |(host, _)| host);
        self.relay || names(&self.der, host)
    }

    /// Whose it is, for messages.
    pub fn label(&self) -> String {
        match webpki::EndEntityCert::try_from(&self.der) {
            Ok(cert) => {
                let names: Vec<&str> = cert.valid_dns_names().take(4).collect();
                if names.is_empty() {
                    "a certificate without DNS names (one with * does not count)".into()
                } else {
                    format!("the certificate of {}", names.join(", "))
                }
            }
            Err(e) => format!("a certificate that cannot be read ({e})"),
        }
    }
}

/// Does the certificate name this host, as a DNS name or an address, letter by letter? One host must not become many by the
/// ways in which its name can be written, nor by a `*`.
fn names(der: &CertificateDer, host: &str) -> bool {
    let Ok(cert) = webpki::EndEntityCert::try_from(der) else { return false };
    match host.parse::<IpAddr>() {
        Ok(ip) => {
            ip.to_string() == host
                && ServerName::try_from(host)
                    .is_ok_and(|name| cert.verify_is_valid_for_subject_name(&name).is_ok())
        }
        Err(_) => cert.valid_dns_names().any(|name| name == host),
    }
}

/// The receiver's side: certificate, key, and who signs the clients' certificates.
pub struct Server {
    conf: TlsListen,
    loaded: Mutex<(Loaded, Stamps)>,
    /// How many times the file of those who sign was another one.
    cas: AtomicU64,
    /// Handshakes under way, the oldest first.
    handshakes: Mutex<Vec<Handshake>>,
}

/// One handshake, and whom it is counted for.
struct Handshake {
    from: IpAddr,
    tcp: Arc<TcpStream>,
}

/// What a receiver's files are made into.
#[derive(Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// Handshakes at once: each may take memory before anybody has shown anything.
const HANDSHAKES_MAX: usize = 256;
/// Bytes of a handshake, the client's certificates among them.
const HANDSHAKE_BYTES: usize = 24 << 10;

/// One handshake's place; it is taken until this is dropped.
struct Place<'a>(&'a Server, Arc<TcpStream>);

impl<'a> Place<'a> {
    /// When all are taken, the oldest of the address that has most makes room for one of an address that has fewer: some that
    /// never end must not keep the others out.
    fn take(server: &'a Server, tcp: &Arc<TcpStream>) -> Option<Self> {
        let from = network(tcp.peer_addr().ok()?.ip());
        let mut all = server.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= HANDSHAKES_MAX {
            let of = |from: IpAddr| all.iter().filter(|h| h.from == from).count();
            let at = (0..all.len()).rev().max_by_key(|at| all.get(*at).map_or(0, |h| of(h.from)))?;
            if all.get(at).is_none_or(|h| of(h.from) <= of(from)) {
                return None;
            }
            let _ = all.remove(at).tcp.shutdown(Shutdown::Both);
        }
        all.push(Handshake { from, tcp: Arc::clone(tcp) });
        Some(Self(server, Arc::clone(tcp)))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut all = self.0.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|h| !Arc::ptr_eq(&h.tcp, &self.1));
    }
}

impl Server {
    /// Reads the files.
    pub fn open(conf: &TlsListen) -> Result<Self, String> {
        let stamps = stamps(&Self::paths(conf));
        let loaded = Mutex::new((Self::load(conf)?, stamps));
        let (cas, handshakes) = (AtomicU64::new(0), Mutex::default());
        Ok(Self { conf: conf.clone(), loaded, cas, handshakes })
    }

    fn paths(conf: &TlsListen) -> Vec<&Path> {
        [&conf.cert, &conf.key].into_iter().chain(&conf.client_ca).map(AsRef::as_ref).collect()
    }

    fn load(conf: &TlsListen) -> Result<Loaded, String> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| format!("tls: {e}"))?;
        let verifier = match &conf.client_ca {
            Some(path) => {
                let roots = Arc::new(roots("tls_client_ca", path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|e| format!("tls_client_ca: {}: {e}", path.display()))?;
                Some(verifier)
            }
            None => None,
        };
        let builder = match verifier.clone() {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let (chain, key) = (certificates("tls_cert", &conf.cert)?, private_key("tls_key", &conf.key)?);
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(pair(["tls_cert", "tls_key"], [&conf.cert, &conf.key]))?;
        // A connection lives for hours. Tickets would come unasked, which a sender takes for a broken connection.
        config.send_tls13_tickets = 0;
        Ok(Loaded { config: Arc::new(config), verifier })
    }

    /// Reads the files again if they are others now. After an error those of before hold on.
    pub fn refresh(&self) -> Option<Result<(), String>> {
        let now = stamps(&Self::paths(&self.conf));
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.1 == now {
            return None;
        }
        let ca_changed = loaded.1.get(2) != now.get(2);
        loaded.1 = now;
        Some(Self::load(&self.conf).map(|new| {
            loaded.0 = new;
            self.cas.fetch_add(u64::from(ca_changed), Ordering::Relaxed);
        }))
    }

    /// Another number each time that `tls_client_ca` is another file.
    pub fn cas(&self) -> u64 {
        self.cas.load(Ordering::Relaxed)
    }

    /// Would a certificate that was good when its connection began be taken now, too?
    pub fn trusts(&self, certificate: &Certificate) -> Result<(), String> {
        let verifier = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).0.verifier.clone();
        let Some(verifier) = verifier else { return Ok(()) };
        let Certificate { der, rest, .. } = certificate;
        let checked = verifier.verify_client_cert(der, rest, UnixTime::now());
        checked.map(|_| ()).map_err(|e| super::explain(&io::Error::other(e)))
    }

    /// How long the files hold.
    pub fn expiries(&self) -> Vec<Expiry> {
        let ca = self.conf.client_ca.as_ref().and_then(|path| expiry("tls_client_ca", path));
        expiry("tls_cert", &self.conf.cert).into_iter().chain(ca).collect()
    }

    /// Must clients show one?
    pub fn asks_for_certificates(&self) -> bool {
        self.conf.client_ca.is_some()
    }

    /// Makes what was accepted a connection, before `deadline`; `None` if it closed without a word.
    pub fn accept(
        &self,
        tcp: Arc<TcpStream>,
        deadline: Instant,
    ) -> Result<Option<(Stream, Option<Certificate>)>, String> {
        let mut first = [0];
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        tcp.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
        match tcp.peek(&mut first) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(_) => return Err(super::SILENT.into()),
        }
        if first != [HANDSHAKE] {
            if self.conf.required {
                let _ = tcp.set_write_timeout(Some(left)).and_then(|()| (&*tcp).write_all(&NO_TLS));
                return Err("it does not speak TLS; if that is one of your hosts, set tls_ca there, or here `tls = accept` \
                            while hosts are changed over"
                    .into());
            }
            return Ok(Some((Stream::plain(tcp), None)));
        }
        let Some(place) = Place::take(self, &tcp) else {
            return Err(format!("{HANDSHAKES_MAX} handshakes are under way, the limit; it may try again"));
        };
        let config = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).0.config.clone();
        let connection = ServerConnection::new(config).map_err(|e| e.to_string())?;
        let session = shake_hands(connection.into(), &tcp, deadline).map_err(|e| super::explain(&e))?;
        drop(place);
        let chain = session.0.peer_certificates().and_then(<[_]>::split_first);
        let certificate = chain.map(|(der, rest)| Certificate {
            der: der.clone().into_owned(),
            rest: rest.iter().map(|one| one.clone().into_owned()).collect(),
            relay: self.conf.relays.iter().any(|relay| relay == "*" || names(der, relay)),
        });
        Ok(Some((Stream { tcp, deadline: None, tls: Some(session) }, certificate)))
    }
}

/// The sender's side: whom to trust, and the certificate to show.
pub struct Client {
    conf: TlsSend,
    loaded: Mutex<(Arc<ClientConfig>, Stamps)>,
}

impl Client {
    /// Reads the files.
    pub fn open(conf: &TlsSend) -> Result<Self, String> {
        if let Some(name) = &conf.name {
            ServerName::try_from(name.as_str())
                .map_err(|_| format!("tls_name: {name:?} is no DNS name or address"))?;
        }
        let stamps = stamps(&Self::paths(conf));
        let loaded = (Arc::new(Self::load(conf)?), stamps);
        Ok(Self { conf: conf.clone(), loaded: Mutex::new(loaded) })
    }

    fn paths(conf: &TlsSend) -> Vec<&Path> {
        let own = conf.own.iter().flat_map(|(cert, key)| [cert, key]);
        [&conf.ca].into_iter().chain(own).map(AsRef::as_ref).collect()
    }

    fn load(conf: &TlsSend) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| format!("tls: {e}"))?
            .with_root_certificates(roots("tls_ca", &conf.ca)?);
        let mut config = match &conf.own {
            Some((cert, key)) => {
                let keys = ["tls_client_cert", "tls_client_key"];
                builder
                    .with_client_auth_cert(certificates(keys[0], cert)?, private_key(keys[1], key)?)
                    .map_err(pair(keys, [cert, key]))?
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// How long the files hold.
    pub fn expiries(&self) -> Vec<Expiry> {
        let own = self.conf.own.as_ref().and_then(|(cert, _)| expiry("tls_client_cert", cert));
        expiry("tls_ca", &self.conf.ca).into_iter().chain(own).collect()
    }

    /// Whose certificate is shown, for people, and whether it names this host; `None` = none is shown.
    pub fn shown(&self, host: &str) -> Option<(String, bool)> {
        let (cert, _) = self.conf.own.as_ref()?;
        let der = certificates("tls_client_cert", cert).ok()?.into_iter().next()?;
        let named = names(&der, host);
        Some((Certificate { der, rest: Vec::new(), relay: false }.label(), named))
    }

    /// Makes a TCP connection to `addr` (`host:port`) a TLS one, before `deadline`. Files that were replaced are read again;
    /// if they cannot be, those of before are used, and the error of a connection that fails says so.
    pub fn connect(&self, addr: &str, tcp: TcpStream, deadline: Instant) -> io::Result<Stream> {
        let (config, trouble) = {
            let now = stamps(&Self::paths(&self.conf));
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            let trouble = if loaded.1 == now {
                None
            } else {
                match Self::load(&self.conf) {
                    Ok(config) => {
                        *loaded = (Arc::new(config), now);
                        None
                    }
                    Err(why) => Some(why),
                }
            };
            (Arc::clone(&loaded.0), trouble)
        };
        let name = self.conf.name.as_deref().unwrap_or_else(|| host_of(addr));
        let connect = || {
            let name = ServerName::try_from(name.to_owned())
                .map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))?;
            let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
            shake_hands(connection.into(), &tcp, deadline)
        };
        match connect() {
            Ok(session) => Ok(Stream { tcp: Arc::new(tcp), deadline: None, tls: Some(session) }),
            Err(e) => {
                let more = trouble.map_or(String::new(), |why| {
                    format!(" (of its own files: {why}; those of before are used)")
                });
                Err(io::Error::new(e.kind(), format!("TLS: {}{more}", super::explain(&e))))
            }
        }
    }
}

/// The host of `host:port`; an IPv6 address without its brackets.
fn host_of(addr: &str) -> &str {
    addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']'])
}

/// Reading ends with an error after so many bytes.
struct Measured<'a> {
    timed: Timed<'a>,
    left: usize,
}

impl Read for Measured<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let end = buf.len().min(self.left);
        if end == 0 {
            return Err(io::Error::new(ErrorKind::InvalidData, "its handshake is too long"));
        }
        let n = self.timed.read(buf.get_mut(..end).unwrap_or_default())?;
        self.left = self.left.saturating_sub(n);
        Ok(n)
    }
}

impl Write for Measured<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.timed.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn shake_hands(mut connection: Connection, tcp: &TcpStream, deadline: Instant) -> io::Result<Session> {
    let mut timed = Measured { timed: Timed { tcp, deadline: Some(deadline) }, left: HANDSHAKE_BYTES };
    while connection.is_handshaking() {
        let (read, written) = connection.complete_io(&mut timed)?;
        if connection.is_handshaking() && read == 0 && written == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed in the middle of the handshake"));
        }
    }
    Ok(Session(Box::new(connection)))
}

/// One connection's TLS.
pub(super) struct Session(Box<Connection>);

impl Session {
    pub(super) fn read(&mut self, io: &mut (impl Read + Write), buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buf) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // Whoever only closes the socket means the same; where a frame was cut short is seen by its length.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            self.flush(io)?;
            match self.0.read_tls(io) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if let Err(e) = self.0.process_new_packets() {
                // The alert that tells the peer.
                let _ = self.flush(io);
                return Err(io::Error::new(ErrorKind::InvalidData, e));
            }
        }
    }

    pub(super) fn write(&mut self, io: &mut impl Write, buf: &[u8]) -> io::Result<usize> {
        let taken = self.0.writer().write(buf)?;
        self.flush(io)?;
        Ok(taken)
    }

    pub(super) fn flush(&mut self, io: &mut impl Write) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(io) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(super) fn close(&mut self, io: &mut impl Write) {
        self.0.send_close_notify();
        let _ = self.flush(io);
    }

    /// Without blocking: is it open, and did nothing come that would be taken for an answer? What TLS says to TLS is no
    /// doubt.
    pub(super) fn is_silent(&mut self, io: &mut impl Read) -> bool {
        loop {
            match self.0.read_tls(io) {
                Ok(0) => return false,
                Ok(_) => match self.0.process_new_packets() {
                    Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                    _ => return false,
                },
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

/// What rustls means, and what to do.
pub(super) fn explain(e: &io::Error) -> Option<String> {
    if e.kind() == ErrorKind::UnexpectedEof {
        return Some("closed in the middle of the handshake; does it speak TLS at all?".into());
    }
    let error = e.get_ref()?.downcast_ref::<Error>()?;
    let text = match error {
        Error::InvalidCertificate(bad) => match bad {
            CertificateError::UnknownIssuer => {
                "the peer's certificate is not signed by the CA that is configured here (tls_ca, or tls_client_ca)".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the peer's certificate has expired; renew it there (or a clock is wrong)".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the peer's certificate is not valid yet; is this host's clock right?".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("{error}; tls_name says which name is wanted")
            }
            _ => error.to_string(),
        },
        Error::AlertReceived(alert) => {
            let own = match alert {
                AlertDescription::CertificateRequired => "it wants a certificate of this host: set tls_client_cert",
                AlertDescription::CertificateExpired => "this host's certificate has expired; renew it",
                AlertDescription::UnknownCA => "it does not know the CA that signed this host's certificate",
                AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnsupportedCertificate => "it does not take this host's certificate",
                AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
                _ => "its log may say why",
            };
            format!("the peer refuses: {own} ({alert:?})")
        }
        Error::NoCertificatesPresented => "the peer shows no certificate; set tls_client_cert there".into(),
        Error::InvalidMessage(_) => "the peer does not speak TLS".into(),
        _ => error.to_string(),
    };
    Some(text)
}
