//! TLS files in `logd status`: what a start would refuse of a sender's, and certificates whose end is near, of either side.

use crate::clock::Zone;
use crate::config::{Config, Role};
use crate::tls::{Client, Server, Urgency};

/// What somebody must look at. The files of a listener that are refused are told with its keys.
pub fn wrong(config: &Config, role: Role, running: bool, zone: Option<&Zone>, now_ms: i64) -> Vec<String> {
    let relay = config.relay(false).ok().map(|(c, _)| c).filter(|_| role == Role::Collector);
    let store = config.store_of(role, false).ok().map(|(c, _)| c.receiver);
    let tail = config.tail(false).ok().filter(|_| role == Role::Tail).map(|(c, _)| c.sender);
    let receiver = store.or_else(|| relay.as_ref().map(|c| c.receiver.clone()));
    let sender = tail.or_else(|| relay.map(|c| c.sender));
    let (mut list, mut expiries) = (Vec::new(), Vec::new());
    if let Some(Ok(server)) = receiver.and_then(|c| c.tls).map(|tls| Server::open(&tls)) {
        expiries.extend(server.expiries());
    }
    match sender.and_then(|c| c.tls).map(|tls| Client::open(&tls)) {
        None => {}
        Some(Ok(client)) => expiries.extend(client.expiries()),
        Some(Err(why)) if running => {
            list.push(format!(
                "{why}; the role that runs goes on with what it read before, a start would be refused"
            ));
        }
        Some(Err(why)) => list.push(format!("{why}; so a start is refused: mend it and start the role")),
    }
    let told =
        zone.into_iter().flat_map(|zone| expiries.iter().map(|e| e.tell(now_ms.div_euclid(1000), zone)));
    list.extend(told.filter(|(urgency, _)| *urgency != Urgency::None).map(|(_, text)| text));
    list
}
