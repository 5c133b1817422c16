//! What is ready for one peer goes out together: as few messages as it takes, in order. Nothing is held back to wait for company.

use super::wire::{Answer, Body, Errand, HEADER_BYTES};

/// Errands or answers in one message at most: it bounds what a handler does at a stretch, and what is lost with one message.
const MOST: usize = 64;
/// Around them: the header, the codec's version byte, the variant, the list's length.
const AROUND: usize = HEADER_BYTES + 16;
/// Numbers, lengths and variants of one of them, at their longest.
const FIXED: usize = 64;

/// Something that shares a message with others of its kind.
pub trait Passenger {
    /// Bytes of it in a message, at most.
    fn bytes(&self) -> usize;
}

impl Passenger for Errand {
    fn bytes(&self) -> usize {
        FIXED + self.task.0.len() + body_bytes(&self.candidate)
    }
}

impl Passenger for Answer {
    fn bytes(&self) -> usize {
        FIXED
            + match &self.report {
                Ok(body) => body_bytes(body),
                Err(fault) => fault.code.len() + fault.message.len(),
            }
    }
}

fn body_bytes(body: &Body) -> usize {
    match body {
        Body::Here(bytes) => bytes.len(),
        Body::Blob(blob) => blob.digest.len(),
    }
}

/// Messages of at most `limit` bytes each; what is longer by itself is alone, and is told when it is sealed.
pub fn messages<T: Passenger>(items: Vec<T>, limit: usize) -> Vec<Vec<T>> {
    let room = limit.saturating_sub(AROUND);
    let (mut out, mut used) = (Vec::<Vec<T>>::new(), 0);
    for item in items {
        let bytes = item.bytes();
        match out.last_mut() {
            Some(last) if last.len() < MOST && used + bytes <= room => {
                last.push(item);
                used += bytes;
            }
            _ => {
                out.push(vec![item]);
                used = bytes;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::wire::{BlobRef, ToHead, ToNode, seal};
    use crate::supervise::fault;
    use rollout::id::{Attempt, RolloutId, TaskId};

    const LIMIT: usize = 64 * 1024;

    fn errand(n: usize, task: usize, candidate: Body) -> Errand {
        let task = TaskId("t".repeat(task));
        Errand { lease: u64::MAX - n as u64, rollout: RolloutId(u64::MAX), attempt: Attempt(u32::MAX), task, candidate }
    }

    /// Planted: `FIXED` = 8. Seen: a message of 64 short errands with the largest numbers is longer than it was taken for.
    #[test]
    fn every_message_fits_is_full_and_keeps_the_order() {
        let blob = || Body::Blob(BlobRef { digest: "d".repeat(64), bytes: u64::MAX });
        for (task, body) in [(0, 0), (1, 1), (3, 300), (1000, 2100), (9, LIMIT / 2), (200, 32_000)] {
            let errands: Vec<Errand> = (0..300)
                .map(|n| errand(n, task, if n % 7 == 3 { blob() } else { Body::Here(vec![7; body]) }))
                .collect();
            let messages = messages(errands.clone(), LIMIT);
            for (n, message) in messages.iter().enumerate() {
                let counted: usize = message.iter().map(Passenger::bytes).sum();
                let sealed = seal(u128::MAX, u64::MAX, &ToNode::Errands(message.clone()), LIMIT).unwrap();
                assert!(sealed.0.len() <= counted + AROUND, "{} of {counted}", sealed.0.len());
                let next = messages.get(n + 1).map_or(LIMIT, |next| next[0].bytes());
                assert!(message.len() == MOST || counted + next + AROUND > LIMIT, "there was room in {n}");
            }
            assert_eq!(messages.concat(), errands);
        }
    }

    #[test]
    fn answers_fit_too_and_one_that_is_too_long_takes_nobody_with_it() {
        let answer = |n: u64, report| Answer { lease: u64::MAX - n, report };
        let mut answers: Vec<Answer> = (0..100)
            .map(|n| answer(n, if n % 2 == 0 { Ok(Body::Here(vec![1; 900])) } else { Err(fault("F123", "gone")) }))
            .collect();
        answers[50].report = Err(fault("F101", "x".repeat(2 * LIMIT)));
        let messages = messages(answers.clone(), LIMIT);
        let sealed = |message: &Vec<Answer>| seal(1, 1, &ToHead::Done(message.clone()), LIMIT).is_ok();
        let (fit, long): (Vec<_>, Vec<_>) = messages.iter().partition(|message| sealed(message));
        assert_eq!(long, [&answers[50..51]]);
        assert_eq!(fit.len(), 2);
        assert_eq!(messages.concat(), answers);
        assert!(super::messages(Vec::<Answer>::new(), LIMIT).is_empty());
    }
}
