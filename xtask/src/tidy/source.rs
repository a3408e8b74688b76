//! Rust source seen as the paths that it names, without comments and literals.
//!
//! This is far less than a parser, and knows nothing of scopes: `use` trees are expanded, everything else is taken
//! as it is written. It is meant to notice what was done by mistake, not to withstand someone who hides it.

/// A path in the source, such as `std::io::Read` or `todo!`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Name {
    pub(super) line: usize,
    /// Its parts; a macro's last one ends with `!`, a method's begins with a dot.
    pub(super) parts: Vec<String>,
    /// Whether it stands in an item that is compiled for tests only.
    pub(super) in_test: bool,
}

impl Name {
    /// Whether `path`, such as `std::io`, is this path or a section of it.
    pub(super) fn has(&self, path: &str) -> bool {
        let sought: Vec<&str> = path.split("::").collect();
        self.parts.windows(sought.len()).any(|section| section == sought)
    }
}

/// All paths that the source names, in order.
pub(super) fn names(text: &str) -> Vec<Name> {
    let code = blank(text);
    let tokens = tokens(&code);
    let tests = test_items(&tokens);
    let mut names = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let begin = index;
        if matches!(tokens[index].kind, Kind::Word(_)) {
            let mut prefix = Vec::new();
            if begin > 0 && tokens[begin - 1].is('.') && !(begin > 1 && tokens[begin - 2].is('.')) {
                prefix.push(".");
            }
            let in_test = tests.iter().any(|range| range.contains(&begin));
            index = path(&tokens, begin, &mut Vec::new(), &mut |line, parts: &[&str]| {
                let mut parts: Vec<String> = parts.iter().map(|&part| part.to_owned()).collect();
                if !prefix.is_empty() {
                    parts[0].insert(0, '.');
                }
                names.push(Name { line, parts, in_test });
            });
        } else {
            index += 1;
        }
    }
    names
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind<'a> {
    Word(&'a str),
    /// `::`
    Path,
    Mark(char),
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    line: usize,
    kind: Kind<'a>,
}

impl Token<'_> {
    fn is(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (number, text) in code.lines().enumerate() {
        let line = number + 1;
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let length = rest.find(|character: char| !is_word(character)).unwrap_or(rest.len());
            let (kind, length) = if length > 0 {
                (Kind::Word(&rest[..length]), length)
            } else if rest.starts_with("::") {
                (Kind::Path, 2)
            } else {
                (Kind::Mark(first), first.len_utf8())
            };
            if !first.is_whitespace() {
                tokens.push(Token { line, kind });
            }
            rest = &rest[length..];
        }
    }
    tokens
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Reads the path that begins at `index`, and the group that it may end with, and gives the index after it.
fn path<'a>(
    tokens: &[Token<'a>],
    mut index: usize,
    parts: &mut Vec<&'a str>,
    found: &mut dyn FnMut(usize, &[&str]),
) -> usize {
    let depth = parts.len();
    while let Some(Token { line, kind: Kind::Word(word) }) = tokens.get(index) {
        parts.push(word);
        index += 1;
        match tokens.get(index).map(|token| token.kind) {
            Some(Kind::Path) => match tokens.get(index + 1).map(|token| token.kind) {
                Some(Kind::Word(_)) => index += 1,
                Some(Kind::Mark('{')) => {
                    index = group(tokens, index + 2, parts, found);
                    break;
                }
                // `*`, or the `<` of type arguments.
                _ => {
                    found(*line, parts);
                    index += 1;
                    break;
                }
            },
            Some(Kind::Mark('!')) if !tokens.get(index + 1).is_some_and(|next| next.is('=')) => {
                let name = format!("{word}!");
                let mut parts: Vec<&str> = parts.clone();
                parts.pop();
                parts.push(&name);
                found(*line, &parts);
                break;
            }
            _ => {
                found(*line, parts);
                break;
            }
        }
    }
    parts.truncate(depth);
    index
}

/// Reads the paths of a `use` group up to its closing brace, and gives the index after that.
fn group<'a>(
    tokens: &[Token<'a>],
    mut index: usize,
    parts: &mut Vec<&'a str>,
    found: &mut dyn FnMut(usize, &[&str]),
) -> usize {
    while let Some(token) = tokens.get(index) {
        match token.kind {
            Kind::Mark('}') => return index + 1,
            Kind::Word(_) => index = path(tokens, index, parts, found),
            _ => index += 1,
        }
    }
    index
}

/// The tokens of the items under `#[cfg(test)]`.
fn test_items(tokens: &[Token<'_>]) -> Vec<std::ops::Range<usize>> {
    const ATTRIBUTE: [Kind<'_>; 7] = [
        Kind::Mark('#'),
        Kind::Mark('['),
        Kind::Word("cfg"),
        Kind::Mark('('),
        Kind::Word("test"),
        Kind::Mark(')'),
        Kind::Mark(']'),
    ];
    let mut items = Vec::new();
    let mut index = 0;
    while index + ATTRIBUTE.len() <= tokens.len() {
        let here = tokens[index..].iter().map(|token| token.kind);
        if !here.take(ATTRIBUTE.len()).eq(ATTRIBUTE) {
            index += 1;
            continue;
        }
        let begin = index;
        let mut depth = 0;
        index += ATTRIBUTE.len();
        while let Some(token) = tokens.get(index) {
            index += 1;
            match token.kind {
                Kind::Mark('{') => depth += 1,
                Kind::Mark('}') if depth == 1 => break,
                Kind::Mark('}') => depth -= 1,
                Kind::Mark(';') if depth == 0 => break,
                _ => {}
            }
        }
        items.push(begin..index);
    }
    items
}

/// The source with spaces in the place of comments and of the contents of literals.
pub(super) fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = comment(rest).or_else(|| literal(rest)).unwrap_or(0);
        if length > 0 {
            let hidden = rest[..length].chars().map(|character| if character == '\n' { '\n' } else { ' ' });
            code.extend(hidden);
            rest = &rest[length..];
            continue;
        }
        // A whole word at once, so that the `r` at the end of one does not begin a raw string.
        let word = rest.find(|character: char| !is_word(character)).unwrap_or(rest.len()).max(first.len_utf8());
        code.push_str(&rest[..word]);
        rest = &rest[word..];
    }
    code
}

/// The length of the comment that the text begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if depth == 0 {
            return (at > 0).then_some(at);
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += rest.chars().next()?.len_utf8();
        }
    }
}

/// The length of the string or character that the text begins with.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r"]
        .into_iter()
        .find(|prefix| text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['"', '#', '\''])));
    let prefix = prefix.unwrap_or("");
    let rest = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let contents = rest[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = contents.find(&end).map_or(contents.len(), |at| at + end.len());
        return Some(prefix.len() + hashes + 1 + length);
    }
    let quote = rest.chars().next().filter(|&quote| quote == '"' || quote == '\'')?;
    let contents = &rest[1..];
    if quote == '\'' {
        // A lifetime has no closing quote behind its first character.
        let mut characters = contents.chars();
        if characters.next()? != '\\' && characters.next()? != '\'' {
            return None;
        }
    }
    let mut escaped = false;
    for (at, character) in contents.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return Some(prefix.len() + 1 + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        names(text).iter().map(|name| format!("{}:{}", name.line, name.parts.join("::"))).collect()
    }

    #[test]
    fn comments_and_literals_are_blank() {
        let code =
            blank("a /* b /* c */ d */ e // f\n\"g\\\"h\" 'i' b'\\'' r#\"j\"k\"# l br\"m\" 'n' for<'o> \"p\nq\" r");
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "e", "l", "for<'o>", "r"]);
        assert_eq!(code.lines().count(), 3);
    }

    #[test]
    fn a_word_that_ends_like_a_prefix_begins_no_raw_string() {
        assert_eq!(blank("var#\"x\"").split_whitespace().collect::<Vec<_>>(), ["var#"]);
    }

    #[test]
    fn paths_are_found_where_they_stand() {
        assert_eq!(paths("std::io::Read\n tokio::select! {}"), ["1:std::io::Read", "2:tokio::select!"]);
        assert_eq!(paths("a != b; !c"), ["1:a", "1:b", "1:c"]);
        assert_eq!(paths("Vec::<u8>::new"), ["1:Vec", "1:u8", "1:new"]);
        assert_eq!(paths("since.elapsed()"), ["1:since", "1:.elapsed"]);
        assert_eq!(paths("..since"), ["1:since"]);
    }

    #[test]
    fn use_trees_are_expanded() {
        assert_eq!(
            paths("use std::{\n io::{self, Read as _},\n time::*,\n};\nfn x() {}"),
            [
                "1:use",
                "2:std::io::self",
                "2:std::io::Read",
                "2:std::io::as",
                "2:std::io::_",
                "3:std::time",
                "5:fn",
                "5:x"
            ]
        );
    }

    #[test]
    fn items_for_tests_are_told_apart() {
        let found = names("a\n#[cfg(test)]\nmod tests { fn b() { c } }\nd\n#[cfg(test)] use e;\nf");
        let in_test: Vec<&str> = found.iter().filter(|name| name.in_test).map(|name| name.parts[0].as_str()).collect();
        assert!(in_test.contains(&"c") && in_test.contains(&"e"));
        assert!(!in_test.contains(&"a") && !in_test.contains(&"d") && !in_test.contains(&"f"));
    }

    #[test]
    fn a_name_has_its_sections() {
        let name = &names("std::io::Read")[0];
        assert!(name.has("std::io") && name.has("io") && name.has("io::Read"));
        assert!(!name.has("std::Read") && !name.has("i"));
    }
}
