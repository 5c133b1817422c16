//! Which program an answer holds: every decision of the extractor, and that it survives any text.

use proptest::prelude::*;

use reward::extract::{ExtractError, MAX_SOURCE_BYTES, digest, extract, from_python, has_delimiter};

fn source(answer: &str) -> Result<String, ExtractError> {
    extract(answer).map(|c| c.source)
}

const MODEL: &str = "class ModelNew:\n    pass";

#[test]
fn the_last_python_block_after_the_last_delimiter() {
    let answer = format!(
        "<think>a\n```python\nx = 0\n```\n</think>\n```python\nx = 1\n```\nmore</think>\n```py\nx = 2\n```\n\
         ```text\nnot code\n```\n```python\n{MODEL}\n```\nbye"
    );
    assert_eq!(source(&answer), Ok(format!("{MODEL}\n")));
    assert_eq!(source("</think>```python\nx = 1\n```"), Ok("x = 1\n".to_owned()), "on the delimiter's own line");
    assert_eq!(source("</think>\n```Python title=\"a\"\nx = 1\n```"), Ok("x = 1\n".to_owned()));
    assert_eq!(source("</think>\n```python3\nx = 1\n```"), Ok("x = 1\n".to_owned()));
}

#[test]
fn the_last_block_counts_even_if_another_defines_the_model() {
    let answer = format!("</think>\n```python\n{MODEL}\n```\nTry it:\n```python\nm = ModelNew()\n```\n");
    assert_eq!(source(&answer), Ok("m = ModelNew()\n".to_owned()));
}

#[test]
fn what_is_missing_has_a_name() {
    assert_eq!(source("```python\nx = 1\n```"), Err(ExtractError::NoDelimiter));
    assert_eq!(source(""), Err(ExtractError::NoDelimiter));
    assert!(!has_delimiter("<think> never ends") && has_delimiter("a</think>"));
    assert_eq!(source("</think> just words"), Err(ExtractError::NoBlock));
    assert_eq!(source("```python\nx = 1\n```\n</think>"), Err(ExtractError::NoBlock));
    assert_eq!(source("</think>\n```\nx = 1\n```"), Err(ExtractError::NoBlock), "no language");
    assert_eq!(source("</think>\n```cpp\nint x;\n```"), Err(ExtractError::NoBlock));
    assert_eq!(source("</think>\n```python\n\n  \n```"), Err(ExtractError::Empty));
    assert_eq!(source("a\n</think>\n```python\nx = 1\n"), Err(ExtractError::Unterminated { line: 3 }));
    let swallowed = "</think>\n```python\nx = 1\n```\n```text\n```python\ny = 2\n";
    assert_eq!(source(swallowed), Err(ExtractError::Unterminated { line: 5 }));
    let long = format!("</think>\n```python\n{}\n```", "x = 1\n".repeat(MAX_SOURCE_BYTES / 6 + 1));
    assert!(matches!(source(&long), Err(ExtractError::TooLong { .. })));
}

#[test]
fn two_models_are_ambiguous() {
    let two = format!("</think>\n```python\n{MODEL}\n```\n```python\n{MODEL}\n```\n");
    assert_eq!(source(&two), Err(ExtractError::Ambiguous { blocks: 2 }));
    for other in [
        "if True:\n    class ModelNew: pass",
        "ModelNew = 1",
        "from a import b as ModelNew",
        "class ModelNew(:\n  broken",
        "x: int = 1\nModelNew: object = x",
    ] {
        let answer = format!("</think>\n```python\n{other}\n```\n```python\n{MODEL}\n```\n");
        assert_eq!(source(&answer), Err(ExtractError::Ambiguous { blocks: 2 }), "{other}");
    }
    let mention = format!("</think>\n```python\n# class ModelNew\nm = ModelNew()\n```\n```python\n{MODEL}\n```\n");
    assert_eq!(source(&mention), Ok(format!("{MODEL}\n")), "a mention defines nothing");
    let in_plan = format!("```python\n{MODEL}\n```\n</think>\n```python\n{MODEL}\n```\n");
    assert_eq!(source(&in_plan), Ok(format!("{MODEL}\n")), "a draft in the plan does not count");
}

#[test]
fn fences_follow_commonmark() {
    assert_eq!(
        source("</think>\n````python\ns = '''\n```\n'''\n````"),
        Ok("s = '''\n```\n'''\n".to_owned()),
        "longer fence"
    );
    assert_eq!(source("</think>\n```python\ns = '```'\n```"), Ok("s = '```'\n".to_owned()), "backticks inside a line");
    assert_eq!(source("</think>\n```python\n    ```\nx = 1\n```"), Ok("    ```\nx = 1\n".to_owned()), "four spaces");
    assert_eq!(source("</think>\n   ```python\nx = 1\n  ```"), Ok("x = 1\n".to_owned()), "three spaces");
    assert_eq!(
        source("</think>\n```text\n```python\nx = 1\n```\n"),
        Err(ExtractError::NoBlock),
        "inside another block"
    );
    assert_eq!(source("</think>\n```python\ns = '''\n```\n'''\n"), Ok("s = '''\n".to_owned()), "a bare fence closes");
    assert_eq!(source("</think>\n```python x ``` y\n```python\nx = 1\n```"), Ok("x = 1\n".to_owned()), "inline code");
    assert_eq!(source("</think>\n``python\nx = 1\n``"), Err(ExtractError::NoBlock), "two backticks");
}

#[test]
fn one_text_has_one_digest() {
    let plain = extract("</think>\n```python\nx = 1\ny = 2\n```").expect("a candidate");
    for same in [
        "</think>\r\n```python\r\nx = 1\r\ny = 2\r\n```\r\n",
        "</think>\r```python\rx = 1\ry = 2\r```\r",
        "</think>\n```python\n\n\nx = 1\ny = 2\n\n  \n```",
        "</think>\n```python\n\u{feff}x = 1\ny = 2\n```",
        "</think>\n```python\n\n\u{feff}\n\u{feff}\u{feff}x = 1\ny = 2\n```",
    ] {
        assert_eq!(extract(same), Ok(plain.clone()), "{same:?}");
    }
    assert_eq!(from_python("\u{feff}\r\nx = 1\r\ny = 2"), Ok(plain.clone()));
    assert_eq!(plain.source, "x = 1\ny = 2\n");
    assert_eq!(plain.digest, digest(b"x = 1\ny = 2\n"));
    assert_eq!(digest(b"abc").0, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(from_python(" \n\t\n"), Err(ExtractError::Empty));
}

fn noise() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("```python\n".to_owned()),
        Just("```py".to_owned()),
        Just("```\n".to_owned()),
        Just("````\n".to_owned()),
        Just("</think>".to_owned()),
        Just("class ModelNew:\n pass\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("\r".to_owned()),
        Just("\u{feff}".to_owned()),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_survived_and_canonical(text in noise()) {
        if let Ok(candidate) = extract(&text) {
            prop_assert!(has_delimiter(&text));
            prop_assert!(!candidate.source.contains('\r') && candidate.source.ends_with('\n'));
            // What was extracted is a fixed point: nobody downstream can read it differently.
            prop_assert_eq!(from_python(&candidate.source), Ok(candidate));
        }
    }
}
