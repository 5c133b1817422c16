//! Packed rows as the GPU executor takes them: who sees whom, tiles for attention, and sums by destination.
//!
//! Plain arithmetic, tested without a GPU. Numbers are `i32`, as the kernels read them.

use crate::host::Rows;

/// Rows of a tile of attention.
pub const TILE: usize = 64;

/// `Rows` with all that the kernels need to know of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packed {
    /// One a row. The last rows may be filling: a sequence of its own, of token 0, of which nothing is used.
    pub tokens: Vec<i32>,
    /// Position of each row in its sequence.
    pub positions: Vec<u32>,
    /// Rows that are not filling.
    pub real: usize,
    /// `start, len, prefix start, prefix len, children start, children end`; children are the sequences that continue this one.
    pub segments: Vec<[i32; 6]>,
    /// The segment of each row.
    pub segment_of: Vec<i32>,
    /// Queries: `row, rows, prefix start, prefix len, own start, own len, diagonal, 0`; the most work first.
    pub query_tiles: Vec<[i32; 8]>,
    /// Keys: `row, rows, own start, own len, children start, children len, 0, 0`; the most work first.
    pub key_tiles: Vec<[i32; 8]>,
}

impl Packed {
    /// Filled up to a multiple of `multiple` rows: products have few different sizes then, and fast ones.
    ///
    /// # Panics
    /// Where a prefix is no whole segment, or the segments that continue it are not neighbours.
    pub fn new(rows: &Rows, multiple: usize) -> Self {
        let real = rows.len();
        let filling = real.next_multiple_of(multiple.max(1)) - real;
        let mut packed = Self {
            tokens: rows.tokens.iter().map(|t| *t as i32).chain(std::iter::repeat_n(0, filling)).collect(),
            positions: rows.positions.iter().copied().chain(0..filling as u32).collect(),
            real,
            ..Self::default()
        };
        let mut spans: Vec<[usize; 6]> = Vec::new();
        for s in &rows.segments {
            if !s.prefix.is_empty() {
                let parent = spans.iter_mut().rev().find(|p| p[0] == s.prefix.start && p[1] == s.prefix.len());
                let parent = parent.expect("a prefix is a segment");
                if parent[4] == parent[5] {
                    (parent[4], parent[5]) = (s.start, s.start);
                }
                assert_eq!(parent[5], s.start, "the segments that continue a prefix are neighbours");
                parent[5] += s.len;
            }
            spans.push([s.start, s.len, s.prefix.start, s.prefix.len(), 0, 0]);
        }
        if filling > 0 {
            spans.push([real, filling, 0, 0, 0, 0]);
        }
        for (index, s) in spans.iter().enumerate() {
            packed.segments.push(s.map(|n| n as i32));
            packed.segment_of.extend(std::iter::repeat_n(index as i32, s[1]));
            packed.add_tiles(*s);
        }
        let by_work = |t: &[i32; 8]| std::cmp::Reverse(t[3] + t[5]);
        packed.query_tiles.sort_by_key(by_work);
        packed.key_tiles.sort_by_key(by_work);
        packed
    }

    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    fn add_tiles(&mut self, [start, len, prefix, prefix_len, children, children_end]: [usize; 6]) {
        for first in (0..len).step_by(TILE) {
            let rows = TILE.min(len - first);
            let row = start + first;
            let queries = [row, rows, prefix, prefix_len, start, first + rows, prefix_len + first, 0];
            let keys = [row, rows, row, len - first, children, children_end - children, 0, 0];
            self.query_tiles.push(queries.map(|n| n as i32));
            self.key_tiles.push(keys.map(|n| n as i32));
        }
    }
}

/// Which sources are summed into which destination: destination `d` gets `list[offsets[d]..offsets[d + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub offsets: Vec<i32>,
    pub list: Vec<i32>,
}

impl Sums {
    /// `to[i]` (below `count`) is where source `i` goes; sources keep their order.
    pub fn by_destination(to: &[usize], count: usize) -> Self {
        let mut offsets = vec![0i32; count + 1];
        for d in to {
            offsets[d + 1] += 1;
        }
        for d in 0..count {
            offsets[d + 1] += offsets[d];
        }
        let mut next = offsets.clone();
        let mut list = vec![0i32; to.len()];
        for (i, d) in to.iter().enumerate() {
            list[next[*d] as usize] = i as i32;
            next[*d] += 1;
        }
        Self { offsets, list }
    }

    /// The different keys in rising order, and the sums by their index.
    pub fn by_key(keys: &[i32]) -> (Vec<i32>, Self) {
        let mut different = keys.to_vec();
        different.sort_unstable();
        different.dedup();
        let to: Vec<usize> = keys.iter().filter_map(|k| different.binary_search(k).ok()).collect();
        let sums = Self::by_destination(&to, different.len());
        (different, sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two prompts, one of which three answers share, and a lone sequence.
    fn rows() -> Rows {
        let mut rows = Rows::default();
        let long: Vec<u32> = (0..70).collect();
        let a = rows.push(&long, 0..0);
        assert_eq!(a, 0);
        rows.push(&[1, 2], 0..70);
        rows.push(&[3], 0..70);
        rows.push(&[4, 5, 6], 0..70);
        rows.push(&[7, 8], 0..0);
        rows.push(&[9], 76..78);
        rows
    }

    /// Who sees whom, by the definition (`host::attention`) and by tiles, must be the same pairs.
    #[test]
    fn tiles_show_every_row_what_it_sees() {
        let rows = rows();
        let packed = Packed::new(&rows, 16);
        assert_eq!((packed.real, packed.rows()), (79, 80));
        let mut expected = vec![vec![false; 80]; 80];
        for s in &rows.segments {
            for (i, seen) in expected.iter_mut().enumerate().skip(s.start).take(s.len) {
                (s.prefix.clone()).chain(s.start..=i).for_each(|k| seen[k] = true);
            }
        }
        expected[79][79] = true;
        let other = |t: &[i32; 8], column: i32| if column < t[3] { t[2] + column } else { t[4] + column - t[3] };
        let (mut queries, mut keys) = (vec![vec![false; 80]; 80], vec![vec![false; 80]; 80]);
        for t in &packed.query_tiles {
            for (line, column) in (0..t[1]).flat_map(|l| (0..t[3] + t[5]).map(move |c| (l, c))) {
                queries[(t[0] + line) as usize][other(t, column) as usize] |= column <= t[6] + line;
            }
        }
        for t in &packed.key_tiles {
            for (line, column) in (0..t[1]).flat_map(|l| (0..t[3] + t[5]).map(move |c| (l, c))) {
                keys[other(t, column) as usize][(t[0] + line) as usize] |= column >= t[6] + line;
            }
        }
        for i in 0..80 {
            assert_eq!(queries[i], expected[i], "query {i}");
            assert_eq!(keys[i], expected[i], "query {i}, from the keys' side");
        }
        let of = |row: usize| packed.segments[packed.segment_of[row] as usize];
        assert_eq!(of(69), [0, 70, 0, 0, 70, 76]);
        assert_eq!(of(75), [73, 3, 0, 70, 0, 0]);
        assert_eq!(of(76), [76, 2, 0, 0, 78, 79]);
        assert_eq!(of(79), [79, 1, 0, 0, 0, 0]);
        let work: Vec<i32> = packed.key_tiles.iter().map(|t| t[3] + t[5]).collect();
        assert!(work.is_sorted_by(|a, b| a >= b), "{work:?}");
    }

    #[test]
    #[should_panic(expected = "neighbours")]
    fn scattered_children_are_refused() {
        let mut rows = Rows::default();
        rows.push(&[1, 2], 0..0);
        rows.push(&[3], 0..2);
        rows.push(&[4], 0..0);
        rows.push(&[5], 0..2);
        Packed::new(&rows, 1);
    }

    #[test]
    fn sums_keep_every_source_once_and_in_order() {
        let sums = Sums::by_destination(&[2, 0, 2, 2, 0], 4);
        assert_eq!((&sums.offsets[..], &sums.list[..]), (&[0, 2, 2, 5, 5][..], &[1, 4, 0, 2, 3][..]));
        let (keys, sums) = Sums::by_key(&[7, 3, 7, 1]);
        assert_eq!(keys, [1, 3, 7]);
        assert_eq!((&sums.offsets[..], &sums.list[..]), (&[0, 1, 2, 4][..], &[3, 1, 0, 2][..]));
    }
}
