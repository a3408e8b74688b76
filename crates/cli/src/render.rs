//! Any JSON value as text: answers of operations and states of monitors that are not known here.

use serde_json::{Map, Value};

use crate::output::clean;

const INDENT: &str = "  ";

/// The value for people. A report, which comes alone in `data`, is shown as it is.
pub(crate) fn render(value: &Value) -> String {
    match value {
        Value::Object(map) => match map.get("data").filter(|_| map.len() == 1) {
            Some(Value::String(data)) => clean(data),
            _ => {
                let mut text = String::new();
                entries(&mut text, map, 0);
                text
            }
        },
        value => {
            let mut text = String::new();
            nested(&mut text, value, 0);
            text
        }
    }
}

fn entries(text: &mut String, map: &Map<String, Value>, depth: usize) {
    for (key, value) in map {
        text.push_str(&INDENT.repeat(depth));
        text.push_str(&clean(key));
        text.push(':');

        match scalar(value) {
            Some(scalar) => {
                text.push(' ');
                text.push_str(&continued(&scalar, depth + 1));
                text.push('\n');
            }
            None => {
                text.push('\n');
                nested(text, value, depth + 1);
            }
        }
    }
}

fn nested(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => entries(text, map, depth),
        Value::Array(values) => {
            for value in values {
                let mut item = String::new();
                nested(&mut item, value, depth + 1);
                // The first line of the item has its dash where the others have a space.
                text.push_str(&INDENT.repeat(depth));
                text.push_str("- ");
                text.push_str(item.trim_start());
            }
        }
        value => {
            text.push_str(&INDENT.repeat(depth));
            text.push_str(&continued(&scalar(value).unwrap_or_default(), depth));
            text.push('\n');
        }
    }
}

/// What fits on the line of its key.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("-".to_owned()),
        Value::String(text) => Some(clean(text)),
        Value::Object(map) if map.is_empty() => Some("{}".to_owned()),
        Value::Array(values) if values.is_empty() => Some("[]".to_owned()),
        Value::Array(values) if values.iter().all(|value| !value.is_array() && !value.is_object()) => {
            let values: Option<Vec<String>> = values.iter().map(scalar).collect();
            values.map(|values| values.join(", "))
        }
        Value::Object(_) | Value::Array(_) => None,
        value => Some(value.to_string()),
    }
}

/// Text of several lines, the further ones indented below the first.
fn continued(text: &str, depth: usize) -> String {
    text.trim_end().replace('\n', &format!("\n{}", INDENT.repeat(depth)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn maps_and_lists() {
        let value = json!({
            "count": 2,
            "name": null,
            "names": ["a", "b"],
            "workers": [{"id": 1, "inner": {"deep": true}}, {"id": 2}],
        });
        assert_eq!(
            render(&value),
            "count: 2\n\
             name: -\n\
             names: a, b\n\
             workers:\n\
             \x20 - id: 1\n\
             \x20   inner:\n\
             \x20     deep: true\n\
             \x20 - id: 2\n"
        );
    }

    #[test]
    fn a_report_is_shown_as_it_is() {
        assert_eq!(render(&json!({"data": "first\n\tsecond\n"})), "first\n\tsecond\n");
        assert_eq!(render(&json!({"data": "text", "path": "x"})), "data: text\npath: x\n");
        assert_eq!(render(&json!({"data": 5})), "data: 5\n");
    }

    #[test]
    fn text_cannot_pretend_to_be_another_field() {
        assert_eq!(render(&json!({"a": "x\nb: y", "c": 1})), "a: x\n  b: y\nc: 1\n");
    }

    #[test]
    fn what_is_empty_or_no_map() {
        assert_eq!(render(&json!({})), "");
        assert_eq!(render(&json!({"a": {}, "b": []})), "a: {}\nb: []\n");
        assert_eq!(render(&json!("x")), "x\n");
        assert_eq!(render(&json!([1, [2, 3]])), "- 1\n- - 2\n  - 3\n");
    }
}
