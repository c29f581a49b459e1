//! How long a monitor takes to ask a thousand nodes, and what it costs.
//!
//! The nodes are addresses of 127.0.0.0/8 and one listener that answers `!` to all of them; one in fifty is a port that nobody
//! has. They stand in `nodes.json`, as somebody would write it by hand. The time is from the start of the role until the file
//! says of each whether it is alive; threads and CPU are the role's own.

use super::measure::*;
use super::support::{Node, SOON, Temp, until};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

const NODES: u32 = 1_000;

/// See the header.
pub fn nodes(report: &mut Report) {
    let temp = Temp::new("nodes");
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut s| s.write_all(b"!"));
        }
    });
    let node = |n: u32| {
        let port = if n % 50 == 49 { 1 } else { port };
        json!({"ip": Ipv4Addr::from(0x7f01_0001 + n).to_string(), "port": port, "role": "tail", "hostname": format!("h{n}")})
    };
    let nodes: Vec<Value> = (0..NODES).map(node).collect();
    temp.file("monitor.state/nodes.json", json!({"format": 1, "nodes": nodes}).to_string());
    let keys = [("[heart_beat] check_interval", "1s"), ("allow", "127.0.0.0/8")];
    let begun = Instant::now();
    let monitor = Node::start(&temp, "monitor", "monitor", &keys, &[]);
    let asked = || {
        let bytes = std::fs::read(temp.path("monitor.state/nodes.json")).ok()?;
        let file: Value = serde_json::from_slice(&bytes).ok()?;
        let all = file["nodes"].as_array()?;
        (all.len() == NODES as usize && all.iter().all(|n| n["alive"].is_boolean())).then_some(())
    };
    until(SOON * 4, "every node to be asked", asked);
    report.row("monitor: 1,000 nodes asked after", begun.elapsed().as_secs_f64(), "s", Target::None);
    report.row("monitor: its threads", monitor.proc_status("Threads") as f64, "", Target::AtMost(6.0));
    report.row("monitor: CPU of the first round", cpu(&monitor), "s", Target::None);
}
