//! How long texts become: trains the embedded policy's tokenizer on the files of some folders and prints tokens per file.
//!
//!     cargo run --release -p model --example token_report -- 1024 tasks/examples tasks/train

use std::path::{Path, PathBuf};

fn files(path: &Path, out: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| files(entry, out));
    } else {
        out.push(path.to_path_buf());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let vocab: usize = args.next().ok_or("usage: token_report VOCAB PATH...")?.parse()?;
    let groups: Vec<(String, Vec<String>)> = args
        .map(|arg| {
            let mut paths = Vec::new();
            files(Path::new(&arg), &mut paths);
            let texts = paths.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
            Ok((arg, texts))
        })
        .collect::<Result<_, std::io::Error>>()?;
    let corpus: Vec<String> = groups.iter().flat_map(|(_, texts)| texts.clone()).collect();
    let start = std::time::Instant::now();
    let tokenizer = model::train_bpe(&corpus, vocab)?;
    println!("{} tokens learnt from {} files in {:.2?}", tokenizer.vocab_size(), corpus.len(), start.elapsed());
    for (name, texts) in &groups {
        let mut counts =
            texts.iter().map(|t| Ok(tokenizer.encode(t)?.len())).collect::<Result<Vec<_>, model::ModelError>>()?;
        counts.sort_unstable();
        let bytes: usize = texts.iter().map(String::len).sum();
        let total: usize = counts.iter().sum();
        let at = |q: usize| counts.get(counts.len() * q / 100).copied().unwrap_or(0);
        println!(
            "{name}: {} texts, {:.1} bytes per token, tokens per text: median {}, 90 % {}, most {}",
            texts.len(),
            bytes as f64 / total.max(1) as f64,
            at(50),
            at(90),
            counts.last().unwrap_or(&0)
        );
    }
    if let Some(text) = corpus.first() {
        let pieces: Vec<String> =
            tokenizer.encode(text)?.iter().map(|id| tokenizer.decode(&[*id])).collect::<Result<_, _>>()?;
        println!("{pieces:?}");
    }
    Ok(())
}
