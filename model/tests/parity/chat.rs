//! Chat templates render as transformers renders them.

use model::Message;
use model::chat::ChatTemplate;

use crate::*;

#[test]
fn templates_render_as_in_transformers() {
    let file = json(fixtures().join("chat.json"));
    let special = [("bos_token".to_string(), "<s>".to_string()), ("eos_token".to_string(), "</s>".to_string())];
    let mut refused = 0;
    for case in file["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let template = ChatTemplate::new(file["templates"][name].as_str().unwrap(), &special, "chat.json").unwrap();
        let messages: Vec<Message> = case["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| Message {
                role: m["role"].as_str().unwrap().to_string(),
                content: m["content"].as_str().unwrap().to_string(),
            })
            .collect();
        let found = template.render(&messages, case["add_generation_prompt"].as_bool().unwrap());
        match case["text"].as_str() {
            Some(expected) => assert_eq!(found.unwrap(), expected, "{name}: {case}"),
            None => {
                refused += 1;
                let reason = case["error"].as_str().unwrap();
                let found = found.unwrap_err().to_string();
                assert!(found.contains(reason), "{name}: {found:?} should say {reason:?}");
            }
        }
    }
    assert_eq!(refused, 2, "the cases with two users in a row are refused");
}

#[test]
fn a_broken_template_names_its_line() {
    let error = ChatTemplate::new("fine\n{% if %}", &[], "some/chat_template.jinja").unwrap_err().to_string();
    assert!(error.contains("line 2") && error.starts_with("some/chat_template.jinja"), "{error}");
}
