//! The digest of a large file in a thread of its own, while another one looks at its packs.

use crate::integrity::Whole;
use crate::pack::Sha;
use sha2::{Digest, Sha256};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// A thread is not worth it for less.
const LARGE: usize = 4 << 20;
/// Blocks that wait for the thread.
const AHEAD: usize = 4;

struct Thread {
    blocks: SyncSender<Vec<u8>>,
    /// Buffers that come back.
    spare: Receiver<Vec<u8>>,
    handle: JoinHandle<Sha256>,
}

/// See the module's header.
#[derive(Default)]
pub struct Beside {
    begun: Sha256,
    bytes: usize,
    thread: Option<Thread>,
}

impl Thread {
    /// `None` = the system has no thread for it.
    fn start(mut sha: Sha256) -> Option<Self> {
        let (blocks, inbox) = sync_channel::<Vec<u8>>(AHEAD);
        let (done, spare) = channel();
        let work = move || {
            for block in inbox {
                sha.update(&block);
                // Whoever reads may have no use for it any more.
                let _ = done.send(block);
            }
            sha
        };
        let handle = std::thread::Builder::new().name("digest".into()).spawn(work).ok()?;
        Some(Self { blocks, spare, handle })
    }
}

impl Whole for Beside {
    fn take(&mut self, block: &mut Vec<u8>) {
        if let Some(t) = &self.thread {
            let next = t.spare.try_recv().unwrap_or_default();
            // The thread lives as long as its inbox.
            let _ = t.blocks.send(std::mem::replace(block, next));
            return;
        }
        self.begun.update(&*block);
        let before = self.bytes;
        self.bytes = self.bytes.saturating_add(block.len());
        // Asked once: where there is no thread it goes on here.
        if before < LARGE && self.bytes >= LARGE {
            self.thread = Thread::start(self.begun.clone());
        }
    }

    fn digest(&mut self) -> Sha {
        self.bytes = 0;
        let Some(Thread { blocks, handle, .. }) = self.thread.take() else {
            return self.begun.finalize_reset().into();
        };
        drop(blocks);
        self.begun.reset();
        // A panic has ended the process.
        handle.join().unwrap_or_default().finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_digest_of_all_blocks_with_a_thread_or_without() {
        let mut both = (Sha256::new(), Beside::default());
        for blocks in [0, 3, 40, 1, 200] {
            for i in 0..blocks {
                let mut block = vec![u8::try_from(i % 251).unwrap(); 100_000 + i];
                both.0.take(&mut block);
                both.1.take(&mut block);
            }
            assert_eq!(Whole::digest(&mut both.0), both.1.digest(), "{blocks} blocks");
        }
    }
}
