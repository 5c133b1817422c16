//! An index of what is in the answers, in a viewer's memory: which answers have which chunk of text (what is between white
//! space, in small letters). A search looks through the distinct chunks, which are few beside all text, and unites the answers
//! that have one of those found.
//!
//! Of a text without white space the index knows the answers exactly; of one with white space it knows who has all parts,
//! and the store is asked for those. Only answers of rollouts that have ended are in it: they do not change any more.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher as _, BuildHasherDefault};
use std::time::Instant;

use super::filter::Known;
use super::table::IdHasher;

/// Before each chunk and after the last.
const SEPARATOR: char = ' ';
/// Answers that are united, and chunks that are found, between two looks at the clock.
const UNITED: usize = 1 << 18;

/// The answers that have one chunk, in the order in which they came.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
    /// Where the steps from one to the next are; `NONE` with one answer.
    steps: u32,
}

const NONE: u32 = u32::MAX;

pub struct Index {
    /// Rows of the table, in the order in which they were added.
    rows: Vec<u32>,
    /// By row of the table.
    has: Vec<bool>,
    /// All distinct chunks.
    text: String,
    starts: Vec<u32>,
    lists: Vec<List>,
    /// Numbers of seven bits a byte, the lowest first; the last byte of each is below 128.
    steps: Vec<Vec<u8>>,
    step_bytes: usize,
    known: HashMap<u64, u32, BuildHasherDefault<IdHasher>>,
    /// Of chunks: what a model wrote shall not be able to choose equal ones.
    hash: RandomState,
}

impl Default for Index {
    fn default() -> Index {
        Index {
            rows: Vec::new(),
            has: Vec::new(),
            text: SEPARATOR.to_string(),
            starts: Vec::new(),
            lists: Vec::new(),
            steps: Vec::new(),
            step_bytes: 0,
            known: HashMap::default(),
            hash: RandomState::new(),
        }
    }
}

impl Index {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn has(&self, row: usize) -> bool {
        self.has.get(row).copied().unwrap_or(false)
    }

    /// About what it takes of memory.
    pub fn bytes(&self) -> usize {
        let chunk = size_of::<u32>() + size_of::<List>() + 2 * size_of::<(u64, u32)>();
        let list = size_of::<Vec<u8>>() + 16;
        self.text.len() + self.lists.len() * chunk + self.steps.len() * list + 2 * self.step_bytes + 5 * self.rows.len()
    }

    /// Adds a row's answer, once. A row without an answer is added as one without text.
    pub fn add(&mut self, row: usize, answer: &str) {
        if self.has.len() <= row {
            self.has.resize(row + 1, false);
        }
        if std::mem::replace(&mut self.has[row], true) {
            return;
        }
        let number = self.rows.len() as u32;
        self.rows.push(row as u32);
        let answer = answer.to_ascii_lowercase();
        for chunk in answer.split_ascii_whitespace() {
            self.note(chunk, number);
        }
    }

    fn note(&mut self, chunk: &str, number: u32) {
        let mut hash = self.hash.hash_one(chunk);
        let at = loop {
            match self.known.entry(hash) {
                Entry::Vacant(place) => {
                    place.insert(self.lists.len() as u32);
                    self.starts.push(self.text.len() as u32);
                    self.text.push_str(chunk);
                    self.text.push(SEPARATOR);
                    return self.lists.push(List { first: number, last: number, steps: NONE });
                }
                Entry::Occupied(place) => {
                    let at = *place.get() as usize;
                    let start = self.starts[at] as usize;
                    // Two chunks of one hash: the second is under the next one.
                    match self.text[start..].strip_prefix(chunk) {
                        Some(rest) if rest.starts_with(SEPARATOR) => break at,
                        _ => hash = hash.wrapping_add(1),
                    }
                }
            }
        };
        let list = &mut self.lists[at];
        if list.last == number {
            return;
        }
        if list.steps == NONE {
            list.steps = self.steps.len() as u32;
            self.steps.push(Vec::new());
        }
        let steps = &mut self.steps[list.steps as usize];
        let mut step = number - list.last;
        list.last = number;
        let before = steps.len();
        while step >= 128 {
            steps.push(step as u8 | 128);
            step >>= 7;
        }
        steps.push(step as u8);
        self.step_bytes += steps.len() - before;
    }

    /// What it knows of `answer ~ text`, for each of `rows` rows of the table; `None` where it is of no help, or not in time.
    pub fn known(&self, text: &str, rows: usize, until: Instant) -> Option<Known> {
        let text = text.to_ascii_lowercase();
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_whitespace());
        let (begins, ends) = (edge(text.chars().next()), edge(text.chars().next_back()));
        let exact = parts.len() == 1 && !begins && !ends;
        let mut all: Option<Vec<u64>> = None;
        for (n, part) in parts.iter().enumerate() {
            // Between two parts is white space: there a chunk ends and the next begins.
            let before = if n > 0 || begins { " " } else { "" };
            let after = if n + 1 < parts.len() || ends { " " } else { "" };
            let found = self.having(&format!("{before}{part}{after}"), until)?;
            all = Some(match all {
                None => found,
                Some(all) => all.into_iter().zip(found).map(|(a, b)| a & b).collect(),
            });
        }
        let all = all?;
        let mut known = Known { can: vec![true; rows], must: vec![false; rows] };
        for (number, row) in self.rows.iter().enumerate().filter(|(_, row)| (**row as usize) < rows) {
            let holds = all[number / 64] >> (number % 64) & 1 == 1;
            known.can[*row as usize] = holds;
            known.must[*row as usize] = holds && exact;
        }
        Some(known)
    }

    /// Which answers have a chunk with `part` in it; a separator at either end of it stands for the chunk's end.
    fn having(&self, part: &str, until: Instant) -> Option<Vec<u64>> {
        let mut found = Bits { words: vec![0; self.rows.len().div_ceil(64)], count: 0 };
        let lead = usize::from(part.starts_with(SEPARATOR));
        let (mut chunk, mut done, mut united) = (0, usize::MAX, 0);
        for (place, _) in self.text.match_indices(part) {
            while self.starts.get(chunk + 1).is_some_and(|next| *next as usize <= place + lead) {
                chunk += 1;
            }
            // Several times in one chunk.
            if std::mem::replace(&mut done, chunk) == chunk {
                continue;
            }
            let list = self.lists.get(chunk)?;
            found.set(list.first);
            united += 1;
            if let Some(steps) = self.steps.get(list.steps as usize) {
                let (mut number, mut step, mut shift) = (list.first, 0u32, 0);
                for byte in steps {
                    step |= u32::from(byte & 127) << shift;
                    shift += 7;
                    if *byte < 128 {
                        number += step;
                        found.set(number);
                        (step, shift) = (0, 0);
                    }
                }
                united += steps.len();
            }
            if found.count == self.rows.len() {
                break;
            }
            if united >= UNITED {
                united = 0;
                if Instant::now() >= until {
                    return None;
                }
            }
        }
        Some(found.words)
    }
}

/// A set of answers.
struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    fn set(&mut self, number: u32) {
        let (word, bit) = (&mut self.words[number as usize / 64], 1u64 << (number % 64));
        self.count += usize::from(*word & bit == 0);
        *word |= bit;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ANSWERS: &[&str] = &[
        "import torch\n\ndef f(x):\n    return torch.EMPTY_like(x)\n",
        "import  torch as t\nx = tl.load(p + i, mask=i < n)",
        "",
        "aaa aa a",
        "ein Wort: Größe \u{1F600}smile torch\timport",
        "tl.load(p\n+ i",
    ];

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn it_finds_what_a_look_at_each_answer_finds() {
        let mut index = Index::default();
        // Not in the order of rows, each many times, and one row is not in it.
        let rows = 600;
        let of = |row: usize| ANSWERS[row % ANSWERS.len()];
        for row in (0..rows).rev().filter(|row| *row != 7) {
            index.add(row, of(row));
            index.add(row, "said twice");
        }
        let mut needles: Vec<String> = Vec::new();
        for answer in ANSWERS {
            let chars: Vec<char> = answer.chars().collect();
            for length in [1, 2, 3, 5, 9] {
                needles.extend(chars.windows(length).map(|w| w.iter().collect::<String>().to_uppercase()));
            }
        }
        needles.extend(["nowhere", "torch nowhere", "said", "a a", "A", " a", "a "].map(String::from));
        for needle in needles.iter().filter(|n| !n.trim().is_empty() && n.is_ascii()) {
            let known = index.known(needle, rows, soon()).unwrap();
            let spaced = needle.contains(|c: char| c.is_ascii_whitespace());
            for row in 0..rows {
                let holds = of(row).to_ascii_lowercase().contains(&needle.to_ascii_lowercase());
                if row == 7 {
                    assert_eq!((known.can[row], known.must[row]), (true, false), "it is not in the index");
                } else if spaced {
                    assert!(!known.must[row] && (known.can[row] || !holds), "{needle:?} in row {row}");
                } else {
                    assert_eq!((known.can[row], known.must[row]), (holds, holds), "{needle:?} in row {row}");
                }
            }
        }
        let of_parts = index.known("torch as", rows, soon()).unwrap();
        assert!(of_parts.can[1] && !of_parts.can[0], "not every answer with both letters is asked for");
        assert!(index.known("  ", rows, soon()).is_none(), "white space alone is not in it");
        assert!(index.bytes() > 0 && index.len() == rows - 1);
    }
}
