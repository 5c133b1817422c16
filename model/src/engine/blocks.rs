//! Which blocks of a paged cache of keys and values belong to whom: pure bookkeeping, no memory and no device.
//!
//! A block holds a fixed number of neighbouring positions of one text, in all layers. A prompt's blocks are filled once and
//! read by every sequence that continues it; a sequence's own blocks are written by it alone. Where a prompt ends inside
//! a block, each sequence begins with a copy of that block.
//!
//! **Reserved, not preempted**: a sequence is begun only when every block that it can ever need is free, and gets them all.
//! So a running sequence never waits and is never thrown out; the price is room that answers shorter than their limit leave unused.

use std::collections::HashMap;

/// The blocks of one prompt.
#[derive(Debug)]
struct Prompt {
    tokens: Vec<u32>,
    /// The last may be partly filled.
    blocks: Vec<u32>,
    /// Sequences that read it.
    readers: usize,
}

/// The blocks of one running sequence. Given back by [`Blocks::end`].
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    /// By position: the prompt's full blocks, then the sequence's own.
    table: Vec<u32>,
    shared: usize,
    prompt: u64,
}

impl Lease {
    /// Block of the positions from `i * tokens` on, for each `i`.
    pub fn table(&self) -> &[u32] {
        &self.table
    }

    /// How many leading blocks are the prompt's, to be read only.
    pub fn shared(&self) -> usize {
        self.shared
    }
}

/// What is to do before a new sequence's first step.
#[derive(Debug)]
pub struct Begun {
    pub lease: Lease,
    /// The prompt is not in the cache: its blocks, to be filled.
    pub fill: Option<Vec<u32>>,
    /// Then: copy the first block to the second.
    pub copy: Option<(u32, u32)>,
}

/// All blocks of a cache.
#[derive(Debug)]
pub struct Blocks {
    tokens: usize,
    total: usize,
    /// The last is the next to be given.
    free: Vec<u32>,
    prompts: HashMap<u64, Prompt>,
    /// Prompts that a new sequence may continue.
    known: HashMap<Vec<u32>, u64>,
    next: u64,
}

impl Blocks {
    /// `total` blocks of `tokens` positions each.
    pub fn new(total: usize, tokens: usize) -> Self {
        assert!(tokens > 0, "a block holds at least one position");
        let free = (0..total as u32).rev().collect();
        Self { tokens, total, free, prompts: HashMap::new(), known: HashMap::new(), next: 0 }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that a sequence needs alone in an empty cache: `filled` positions of its prompt, `positions` in all.
    pub fn needed(&self, filled: usize, positions: usize) -> usize {
        filled.div_ceil(self.tokens) + self.own(filled, positions)
    }

    fn own(&self, filled: usize, positions: usize) -> usize {
        positions.max(filled + 1).div_ceil(self.tokens) - filled / self.tokens
    }

    /// Begins a sequence over `filled`, the part of its prompt that is computed beforehand (may be empty), with room for
    /// `positions` in all. `None`: not enough blocks are free now; nothing has changed.
    pub fn begin(&mut self, filled: &[u32], positions: usize) -> Option<Begun> {
        let own = self.own(filled.len(), positions);
        let known = self.known.get(filled).copied();
        let prompt_blocks = if known.is_some() { 0 } else { filled.len().div_ceil(self.tokens) };
        if own + prompt_blocks > self.free.len() {
            return None;
        }
        let (prompt, fill) = match known {
            Some(prompt) => (prompt, None),
            None => {
                let blocks = self.take(prompt_blocks);
                let id = self.next;
                self.next += 1;
                self.known.insert(filled.to_vec(), id);
                self.prompts.insert(id, Prompt { tokens: filled.to_vec(), blocks: blocks.clone(), readers: 0 });
                (id, (!blocks.is_empty()).then_some(blocks))
            }
        };
        let own = self.take(own);
        let shared = filled.len() / self.tokens;
        let mut table = Vec::new();
        let mut copy = None;
        if let Some(entry) = self.prompts.get_mut(&prompt) {
            entry.readers += 1;
            table.extend_from_slice(&entry.blocks[..shared]);
            copy = entry.blocks.get(shared).copied().zip(own.first().copied());
        }
        table.extend(own);
        Some(Begun { lease: Lease { table, shared, prompt }, fill, copy })
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        self.free.split_off(self.free.len() - count)
    }

    /// A sequence is over: its own blocks are free, and its prompt's with the last reader.
    pub fn end(&mut self, lease: Lease) {
        self.free.extend(&lease.table[lease.shared..]);
        let Some(prompt) = self.prompts.get_mut(&lease.prompt) else { return };
        prompt.readers -= 1;
        if prompt.readers > 0 {
            return;
        }
        if let Some(prompt) = self.prompts.remove(&lease.prompt) {
            self.free.extend(&prompt.blocks);
            if self.known.get(&prompt.tokens) == Some(&lease.prompt) {
                self.known.remove(&prompt.tokens);
            }
        }
    }

    /// The weights changed: no prompt that is in the cache now may begin another sequence.
    pub fn forget(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::sampling::TokenRng;

    /// Every block has exactly one holder; what a table shares is its prompt's.
    fn check(blocks: &Blocks, running: &[(Lease, Vec<u32>, usize)]) {
        let mut seen = HashSet::new();
        let mut hold = |block: u32| assert!(seen.insert(block), "block {block} has two holders");
        blocks.free.iter().copied().for_each(&mut hold);
        blocks.prompts.values().flat_map(|p| &p.blocks).copied().for_each(&mut hold);
        for (lease, filled, positions) in running {
            lease.table[lease.shared..].iter().copied().for_each(&mut hold);
            let prompt = &blocks.prompts[&lease.prompt];
            assert_eq!(&prompt.tokens, filled);
            assert_eq!(lease.table[..lease.shared], prompt.blocks[..lease.shared]);
            assert_eq!(lease.shared, filled.len() / blocks.tokens);
            assert!(lease.table.len() * blocks.tokens >= *positions);
        }
        assert_eq!(seen.len(), blocks.total, "a block is lost");
        let readers: usize = blocks.prompts.values().map(|p| p.readers).sum();
        assert_eq!(readers, running.len());
    }

    /// Planted and seen to fail: an `end` that keeps the prompt's last block, a `begin` that shares the partly filled block
    /// instead of copying it, one that does not count the prompt's blocks.
    #[test]
    fn no_history_loses_a_block_or_gives_it_to_two() {
        for seed in 0..300 {
            let mut rng = TokenRng::new(seed);
            let mut pick = |n: usize| (rng.uniform() * n as f64) as usize;
            let tokens = 1 + pick(20);
            let mut blocks = Blocks::new(pick(60), tokens);
            let mut running: Vec<(Lease, Vec<u32>, usize)> = Vec::new();
            for _ in 0..200 {
                match pick(10) {
                    0 => blocks.forget(),
                    1..=3 if !running.is_empty() => {
                        let (lease, ..) = running.swap_remove(pick(running.len()));
                        blocks.end(lease);
                    }
                    _ => {
                        // Few different prompts, so that many are shared.
                        let filled: Vec<u32> = (0..pick(4) * pick(20)).map(|t| t as u32).collect();
                        let positions = filled.len() + 1 + pick(50);
                        let before = blocks.free();
                        let known = blocks.known.contains_key(&filled);
                        let own = blocks.own(filled.len(), positions);
                        let needed = if known { own } else { blocks.needed(filled.len(), positions) };
                        match blocks.begin(&filled, positions) {
                            None => assert!(needed > before && blocks.free() == before),
                            Some(begun) => {
                                assert_eq!(before - blocks.free(), needed);
                                assert_eq!(begun.fill.is_some(), !known && !filled.is_empty());
                                let partial = !filled.len().is_multiple_of(tokens);
                                assert_eq!(begun.copy.is_some(), partial);
                                if let Some((from, to)) = begun.copy {
                                    assert_eq!(to, begun.lease.table[begun.lease.shared]);
                                    assert_eq!(Some(&from), blocks.prompts[&begun.lease.prompt].blocks.last());
                                }
                                running.push((begun.lease, filled, positions));
                            }
                        }
                    }
                }
                check(&blocks, &running);
            }
            for (lease, ..) in running.drain(..) {
                blocks.end(lease);
            }
            assert_eq!(blocks.free(), blocks.total());
            assert!(blocks.prompts.is_empty() && blocks.known.is_empty());
        }
    }

    #[test]
    fn samples_of_one_prompt_share_its_full_blocks() {
        let mut blocks = Blocks::new(20, 4);
        let prompt: Vec<u32> = (0..10).collect();
        let a = blocks.begin(&prompt, 16).expect("room");
        // Three blocks of the prompt, two of them full, two of its own.
        assert_eq!((a.lease.shared(), a.lease.table().len(), blocks.free()), (2, 4, 15));
        assert_eq!(a.fill.as_ref().map(Vec::len), Some(3));
        let b = blocks.begin(&prompt, 16).expect("room");
        assert_eq!((b.fill.is_none(), blocks.free()), (true, 13));
        assert_eq!(a.lease.table()[..2], b.lease.table()[..2]);
        assert_eq!(b.copy.map(|c| c.0), a.copy.map(|c| c.0));
        assert_ne!(b.copy.map(|c| c.1), a.copy.map(|c| c.1));
        // After new weights the same text is filled anew, while the old readers keep what they have.
        blocks.forget();
        let c = blocks.begin(&prompt, 16).expect("room");
        assert!(c.fill.is_some());
        blocks.end(a.lease);
        blocks.end(b.lease);
        assert_eq!(blocks.free(), 15);
        blocks.end(c.lease);
        assert_eq!(blocks.free(), 20);
    }
}
