//! The monitor's side of `logd status`: its nodes, as `nodes.json` has them, and what a start would be refused for.

use super::super::out;
use crate::clock::Zone;
use crate::config::MonitorConfig;
use crate::disk::{self, Disk};
use crate::instance;
use crate::monitor::nodes::{Node, Nodes};
use crate::roles::admission;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// Nodes that are named one by one.
const NAMED_MAX: usize = 20;

/// See the module's header.
pub struct Report {
    nodes: Vec<Node>,
    /// What is wrong before any node is.
    wrong: Vec<String>,
    zone: Option<Zone>,
    running: Option<bool>,
}

impl Report {
    /// Reads the list of nodes; changes nothing.
    pub fn read(
        disk: &Disk,
        conf: &MonitorConfig,
        state_dir: &Path,
        zone: Option<&Zone>,
    ) -> disk::Result<Self> {
        let mut wrong: Vec<String> = match admission::may_monitor(conf, state_dir) {
            Err(why) => vec![why],
            Ok(()) => admission::is_open_monitor(conf).iter().map(|why| admission::told_open(why)).collect(),
        };
        let nodes = Nodes::look(disk, &state_dir.join("nodes.json"))?.unwrap_or_else(|why| {
            wrong.push(format!("nodes.json: {why}; a start of the monitor sets it aside"));
            Vec::new()
        });
        let running = instance::is_running(state_dir);
        if running == Some(false) {
            let text = "it does not run, and nobody watches: `logd monitor CONFIG` starts it";
            let of = if nodes.is_empty() { "" } else { "; what is told of nodes is what it saw last" };
            wrong.push(format!("{text}{of}"));
        }
        Ok(Self { nodes, wrong, zone: zone.cloned(), running })
    }

    fn count(&self, alive: Option<bool>) -> usize {
        self.nodes.iter().filter(|n| n.alive == alive && !n.stopped).count()
    }

    /// A line of numbers.
    pub fn text(&self) -> String {
        let [up, down, unknown] = [Some(true), Some(false), None].map(|a| self.count(a));
        let nodes = out::count(self.nodes.len(), "node");
        let mut text =
            format!("  {nodes}: {up} alive, {down} without a heart-beat, {unknown} not asked yet\n");
        let stopped: Vec<&Node> = self.nodes.iter().filter(|n| n.stopped).collect();
        for n in stopped.iter().take(NAMED_MAX) {
            let _ = writeln!(text, "  stopped{}: {}", self.since(n), n.label());
        }
        if stopped.len() > NAMED_MAX {
            let _ = writeln!(text, "  and {} more were stopped", stopped.len().saturating_sub(NAMED_MAX));
        }
        text
    }

    fn since(&self, n: &Node) -> String {
        match &self.zone {
            Some(zone) if n.since_ms > 0 => format!(" since {}", zone.format_ms(n.since_ms)),
            _ => String::new(),
        }
    }

    /// Nodes that do not answer.
    pub fn wrong(&self) -> Vec<String> {
        let down: Vec<&Node> = self.nodes.iter().filter(|n| n.alive == Some(false)).collect();
        let named = down.iter().take(NAMED_MAX);
        let mut list: Vec<String> = named
            .map(|n| {
                // One that was added by hand was perhaps never heard.
                let what = if n.beat_ms > 0 { "no heart-beat" } else { "no heart-beat ever, asked" };
                format!("node {}: {what}{}: does it run?", n.label(), self.since(n))
            })
            .collect();
        if down.len() > NAMED_MAX {
            list.push(format!("and {} more", down.len().saturating_sub(NAMED_MAX)));
        }
        self.wrong.iter().cloned().chain(list).collect()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({"role": "monitor", "running": self.running, "nodes": self.nodes})
    }
}
