//! What the corrections did to a batch, for the step's report.

use serde::{Deserialize, Serialize};

use super::{Credit, Fate};

/// Shares are of all tokens of the batch; weights are the constant factors of the tokens' objectives, 0 for a dropped one and 1
/// where nothing is corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CorrectionReport {
    /// Share of tokens that IcePop left out (those of rejected answers aside).
    pub masked: f64,
    /// Share of tokens whose weight was capped (those of rejected answers aside).
    pub truncated: f64,
    /// Answers rejected, vetoed ones included.
    pub rejected: usize,
    /// Answers rejected for one token.
    pub vetoed: usize,
    pub weight_mean: f64,
    /// Effective sample size of the weights, `(sum k)^2 / (n sum k^2)`; 0 where everything is dropped.
    pub weight_ess: f64,
}

/// Collects answers in order.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    tokens: usize,
    masked: usize,
    truncated: usize,
    rejected: usize,
    vetoed: usize,
    sum: f64,
    squares: f64,
}

impl Tally {
    pub fn push(&mut self, answer: &[Credit]) {
        for credit in answer {
            let factor = credit.factor();
            self.tokens += 1;
            self.sum += factor;
            self.squares += factor * factor;
            self.masked += usize::from(credit.fate == Fate::Masked);
            self.truncated += usize::from(credit.fate == Fate::Truncated);
        }
        let fate = answer.first().map(|c| c.fate);
        self.vetoed += usize::from(fate == Some(Fate::Vetoed));
        self.rejected += usize::from(matches!(fate, Some(Fate::Vetoed | Fate::Rejected)));
    }

    pub fn report(&self) -> CorrectionReport {
        let n = self.tokens as f64;
        let over = |sum: f64, by: f64| if by == 0.0 { 0.0 } else { sum / by };
        CorrectionReport {
            masked: over(self.masked as f64, n),
            truncated: over(self.truncated as f64, n),
            rejected: self.rejected,
            vetoed: self.vetoed,
            weight_mean: over(self.sum, n),
            weight_ess: over(self.sum * self.sum, n * self.squares),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_equals_a_hand_computation() {
        let credit = |weight, fate| Credit { anchor: -1.0, weight, fate };
        let mut tally = Tally::default();
        assert_eq!(tally.report(), CorrectionReport::default());
        tally.push(&[credit(1.0, Fate::Kept), credit(2.0, Fate::Truncated), credit(9.0, Fate::Masked)]);
        tally.push(&[credit(1.0, Fate::Rejected)]);
        tally.push(&[credit(f64::INFINITY, Fate::Vetoed); 4]);
        let report = tally.report();
        assert_eq!((report.masked, report.truncated), (1.0 / 8.0, 1.0 / 8.0));
        assert_eq!((report.rejected, report.vetoed), (2, 1));
        assert_eq!((report.weight_mean, report.weight_ess), (3.0 / 8.0, 9.0 / (8.0 * 5.0)));
    }
}
