//! Samples into micro-batches: same prompts together, long ones first, split evenly over threads.

use std::collections::HashMap;

/// One sequence to learn from.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    pub prompt: &'a [u32],
    /// The answer; at least one token.
    pub tokens: &'a [u32],
    /// False: only its log-probs are wanted.
    pub backward: bool,
}

/// Rows a micro-batch may have on a CPU, about; more do not fit the caches.
pub const MAX_ROWS: usize = 2048;

/// A few items that are run together: indices into the list of items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    pub items: Vec<usize>,
    pub backward: bool,
    /// Rows the network runs for it, a shared prompt counted once.
    pub rows: usize,
}

/// At most `max_items` and (but for one item alone) `max_rows` each; items of one prompt are neighbours (a prompt is run once per micro-batch); an item belongs to
/// exactly one. The order is a function of the items alone.
pub fn plan(items: &[Item], max_items: usize, max_rows: usize) -> Vec<MicroBatch> {
    let mut group_of: HashMap<&[u32], usize> = HashMap::new();
    for item in items {
        let next = group_of.len();
        group_of.entry(item.prompt).or_insert(next);
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    let group = |i: &usize| group_of.get(items[*i].prompt).copied();
    order.sort_by_key(|i| (!items[*i].backward, group(i), std::cmp::Reverse(items[*i].tokens.len()), *i));
    let mut batches: Vec<MicroBatch> = Vec::new();
    let mut last_group = None;
    for i in order {
        let item = &items[i];
        let same_prompt = group(&i) == last_group;
        let more = item.tokens.len() + if same_prompt { 0 } else { item.prompt.len() };
        let full = |b: &MicroBatch| {
            b.items.len() >= max_items.max(1) || b.rows + more > max_rows || b.backward != item.backward
        };
        if batches.last().is_none_or(full) {
            batches.push(MicroBatch { items: Vec::new(), backward: item.backward, rows: 0 });
        }
        let Some(batch) = batches.last_mut() else { continue };
        let new_prompt = batch.items.is_empty() || !same_prompt;
        batch.rows += item.tokens.len() + if new_prompt { item.prompt.len() } else { 0 };
        batch.items.push(i);
        last_group = group(&i);
    }
    batches
}

/// Rows of a micro-batch, at most, with which there are some for each of `count`, as far as there are so many items.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub fn share(items: &[Item], max_items: usize, count: usize) -> usize {
    let rows: usize = plan(items, max_items, usize::MAX).iter().map(|b| b.rows).sum();
    rows.div_ceil(count.max(1))
}

/// Micro-batch numbers for each of `threads`, the rows spread evenly (the largest first, to the least loaded).
pub fn spread(batches: &[MicroBatch], threads: usize) -> Vec<Vec<usize>> {
    let mut shares = vec![(0usize, Vec::new()); threads.max(1)];
    let mut order: Vec<usize> = (0..batches.len()).collect();
    order.sort_by_key(|b| (std::cmp::Reverse(batches[*b].rows), *b));
    for b in order {
        if let Some(share) = shares.iter_mut().min_by_key(|(rows, _)| *rows) {
            share.0 += batches[b].rows;
            share.1.push(b);
        }
    }
    shares.into_iter().map(|(_, list)| list).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_in_one_batch_and_prompts_stay_together() {
        let (a, b) = ([1u32, 2, 3], [4u32, 5]);
        let long = [7u32; 5];
        let items: Vec<Item> = (0..7)
            .map(|i| Item { prompt: if i % 2 == 0 { &a } else { &b }, tokens: &long[..1 + i % 5], backward: i != 3 })
            .collect();
        let batches = plan(&items, 3, MAX_ROWS);
        let mut seen: Vec<usize> = batches.iter().flat_map(|b| b.items.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..7).collect::<Vec<_>>());
        assert_eq!(batches[0].items, [4, 2, 6]);
        assert_eq!(batches[0].rows, 3 + 5 + 3 + 2);
        assert_eq!(batches.last().map(|b| (b.items.clone(), b.backward)), Some((vec![3], false)));
        let shares = spread(&batches, 2);
        assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), batches.len());
    }

    /// Planted and seen to fail: prompts not counted in `full`.
    #[test]
    fn no_micro_batch_of_several_has_more_rows_than_it_may() {
        let prompts: Vec<Vec<u32>> = (0..8).map(|n| vec![n; 2048]).collect();
        let answer = [7u32; 300];
        let items: Vec<Item> = prompts.iter().map(|prompt| Item { prompt, tokens: &answer, backward: true }).collect();
        let batches = plan(&items, 16, 8320);
        assert_eq!(batches.iter().map(|b| b.items.len()).collect::<Vec<_>>(), [3, 3, 2]);
        assert!(batches.iter().all(|b| b.rows <= 8320));
    }

    /// Planted and seen to fail: a share of the tokens with every prompt counted, of which most is one prompt.
    #[test]
    fn everybody_has_a_share_however_long_a_common_prompt_is() {
        let (prompt, answer) = ([1u32; 500], [7u32; 10]);
        let items = [Item { prompt: &prompt, tokens: &answer, backward: true }; 8];
        for count in 1..5 {
            let batches = plan(&items, 64, share(&items, 64, count));
            assert!(spread(&batches, count).iter().all(|share| !share.is_empty()), "{count}: {batches:?}");
        }
    }
}
