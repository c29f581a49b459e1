//! The monitor's side of `logd status`: its nodes, as `nodes.json` has them, and what a start would be refused for.

use super::super::out;
use crate::clock::Zone;
use crate::config::MonitorConfig;
use crate::disk::{self, Disk};
use crate::monitor::nodes::{Node, Nodes};
use crate::roles::admission;
use serde_json::{Value, json};
use std::path::Path;

/// Nodes that are named one by one.
const NAMED_MAX: usize = 20;

/// See the module's header.
pub struct Report {
    nodes: Vec<Node>,
    /// What is wrong before any node is.
    wrong: Vec<String>,
    zone: Option<Zone>,
}

impl Report {
    /// Reads the list of nodes; changes nothing.
    pub fn read(
        disk: &Disk,
        conf: &MonitorConfig,
        state_dir: &Path,
        zone: Option<&Zone>,
    ) -> disk::Result<Self> {
        let mut wrong: Vec<String> = admission::may_monitor(conf, state_dir).err().into_iter().collect();
        let nodes = Nodes::look(disk, &state_dir.join("nodes.json"))?.unwrap_or_else(|why| {
            wrong.push(format!("nodes.json: {why}; a start of the monitor sets it aside"));
            Vec::new()
        });
        Ok(Self { nodes, wrong, zone: zone.cloned() })
    }

    fn count(&self, alive: Option<bool>) -> usize {
        self.nodes.iter().filter(|n| n.alive == alive).count()
    }

    /// A line of numbers.
    pub fn text(&self) -> String {
        let [up, down, unknown] = [Some(true), Some(false), None].map(|a| self.count(a));
        let nodes = out::count(self.nodes.len(), "node");
        format!("  {nodes}: {up} alive, {down} without a heart-beat, {unknown} not asked yet\n")
    }

    /// Nodes that do not answer.
    pub fn wrong(&self) -> Vec<String> {
        let since = |n: &Node| match &self.zone {
            Some(zone) if n.since_ms > 0 => format!(" since {}", zone.format_ms(n.since_ms)),
            _ => String::new(),
        };
        let down: Vec<&Node> = self.nodes.iter().filter(|n| n.alive == Some(false)).collect();
        let named = down.iter().take(NAMED_MAX);
        let mut list: Vec<String> =
            named.map(|n| format!("node {}: no heart-beat{}: does it run?", n.label(), since(n))).collect();
        if down.len() > NAMED_MAX {
            list.push(format!("and {} more", down.len().saturating_sub(NAMED_MAX)));
        }
        self.wrong.iter().cloned().chain(list).collect()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({"role": "monitor", "nodes": self.nodes})
    }
}
