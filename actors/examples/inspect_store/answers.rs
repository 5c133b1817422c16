//! Answers as long and as different as those of a model: a plan in words of which some are frequent and most are rare, and one of
//! the corpus' honest kernels with names and sizes of its own.

use std::path::Path;

/// Words of a plan's vocabulary, and of one plan.
const WORDS: u64 = 30_000;
const PLAN: usize = 60;

pub struct Answers {
    programs: Vec<String>,
    state: u64,
}

impl Answers {
    pub fn new() -> std::io::Result<Answers> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/exploits/honest");
        let mut paths: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        paths.sort_by_key(|entry| entry.file_name());
        let programs =
            paths.iter().map(|entry| std::fs::read_to_string(entry.path())).collect::<Result<Vec<_>, _>>()?;
        Ok(Answers { programs, state: 1 })
    }

    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    /// The `n` is a number that looks random.
    pub fn next(&mut self, n: u64) -> String {
        let mut text = String::from("<think>");
        for _ in 0..PLAN {
            // As words are: the k-th most frequent about 1/k as often.
            let share = self.draw() as f64 / (1u64 << 31) as f64;
            let word = (WORDS as f64).powf(share) as u64;
            text.push_str(&format!("word{word} "));
        }
        let (size, name) = (1u64 << (5 + self.draw() % 8), self.draw() % 1000);
        let program = &self.programs[(n % self.programs.len() as u64) as usize];
        let program = program.replace("kernel", &format!("kernel_{name}")).replace("1024", &size.to_string());
        text.push_str("</think>\n```python\n");
        text.push_str(&program);
        text.push_str("```\n");
        text
    }
}
