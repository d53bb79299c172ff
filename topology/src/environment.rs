//! Environment variables in the text of a topology file.
//!
//! Known forms: `$V`, `${V}`, `${V-x}`, `${V:-x}`, `${V=x}`, `${V:=x}`, `${V+x}`, `${V:+x}`; `$$` is a dollar sign. A
//! variable that is not set and has no default stays as written, so that `$` in commands mostly survives. `x` may hold
//! variables itself. As the file's tool does it, the whole text is expanded, comments included.

use std::collections::BTreeMap;

/// A text after expansion, and how its bytes map back to the text before.
pub(crate) struct Expanded {
    /// As its author wrote it.
    pub(crate) original: String,
    /// After expansion.
    pub(crate) text: String,
    /// Replaced stretches in order.
    replaced: Vec<Replaced>,
    /// Variables that are not set and have no default: name, byte offset in the original.
    pub(crate) unset: Vec<(String, usize)>,
}

/// A stretch of the expanded text that stands for something else in the original: byte ranges of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Replaced {
    from: (usize, usize),
    to: (usize, usize),
}

/// Why a text cannot be expanded, and the byte where that is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ExpandError {
    pub(crate) message: String,
    pub(crate) offset: usize,
    pub(crate) length: usize,
}

/// Defaults inside defaults: deeper than anybody writes, shallow enough for any stack.
const MAX_DEPTH: usize = 16;
/// A default is expanded at most as often as it is nested, but values are the caller's: keep the result bounded.
const MAX_TEXT: usize = 64 << 20;

impl Expanded {
    /// Expands `original` with the variables `env`.
    pub(crate) fn new(original: &str, env: &BTreeMap<String, String>) -> Result<Self, ExpandError> {
        let mut out = Expanded {
            original: original.to_owned(),
            text: String::with_capacity(original.len()),
            replaced: Vec::new(),
            unset: Vec::new(),
        };
        let mut at = 0;
        while let Some(dollar) = original[at..].find('$').map(|i| at + i) {
            out.text.push_str(&original[at..dollar]);
            let found = variable(original, dollar, env, 0, &mut out.unset)?;
            let start = out.text.len();
            out.text.push_str(&found.value);
            if found.value != original[dollar..found.end] {
                out.replaced.push(Replaced { from: (dollar, found.end), to: (start, out.text.len()) });
            }
            at = found.end;
            if out.text.len() > MAX_TEXT {
                return Err(ExpandError {
                    message: "the file is larger than 64 MiB after its environment variables were expanded"
                        .into(),
                    offset: dollar,
                    length: 1,
                });
            }
        }
        out.text.push_str(&original[at..]);
        Ok(out)
    }

    /// The text itself, without expansion.
    pub(crate) fn verbatim(original: &str) -> Self {
        Expanded {
            original: original.to_owned(),
            text: original.to_owned(),
            replaced: Vec::new(),
            unset: Vec::new(),
        }
    }

    /// The byte of the original that became byte `offset` of the expanded text; the start of the replaced stretch for
    /// what a variable brought.
    pub(crate) fn original_offset(&self, offset: usize) -> usize {
        let index = self.replaced.partition_point(|r| r.to.0 <= offset);
        let Some(last) = index.checked_sub(1).and_then(|i| self.replaced.get(i)) else { return offset };
        if offset < last.to.1 { last.from.0 } else { last.from.1 + (offset - last.to.1) }
    }
}

/// What a `$` stands for.
struct Found {
    value: String,
    /// The byte after it in the text.
    end: usize,
}

/// Expands what begins at the `$` at byte `dollar`.
fn variable(
    text: &str,
    dollar: usize,
    env: &BTreeMap<String, String>,
    depth: usize,
    unset: &mut Vec<(String, usize)>,
) -> Result<Found, ExpandError> {
    let rest = &text[dollar + 1..];
    if rest.starts_with('$') {
        return Ok(Found { value: "$".to_owned(), end: dollar + 2 });
    }
    if let Some(inner) = rest.strip_prefix('{') {
        return braced(text, dollar, inner, env, depth, unset);
    }
    let name = &rest[..name_length(rest)];
    let end = dollar + 1 + name.len();
    let value = match env.get(name) {
        Some(value) if !name.is_empty() => value.clone(),
        _ => {
            if !name.is_empty() {
                unset.push((name.to_owned(), dollar));
            }
            text[dollar..end].to_owned()
        }
    };
    Ok(Found { value, end })
}

fn braced(
    text: &str,
    dollar: usize,
    inner: &str,
    env: &BTreeMap<String, String>,
    depth: usize,
    unset: &mut Vec<(String, usize)>,
) -> Result<Found, ExpandError> {
    let error = |message: &str| ExpandError { message: message.to_owned(), offset: dollar, length: 2 };
    let name = &inner[..name_length(inner)];
    if name.is_empty() {
        return Err(error(
            "'${' is not followed by a variable's name; write '$${' for the characters themselves",
        ));
    }
    let after = dollar + 2 + name.len();
    let rest = &text[after..];
    let operators = [":-", ":=", ":+", "-", "=", "+"];
    let Some(operator) = operators.into_iter().find(|op| rest.starts_with(op)) else {
        if !rest.starts_with('}') {
            return Err(error(
                "the '${' of this variable is not closed by '}'; write '$${' for the characters themselves",
            ));
        }
        let value = env.get(name).cloned().unwrap_or_else(|| {
            unset.push((name.to_owned(), dollar));
            text[dollar..=after].to_owned()
        });
        return Ok(Found { value, end: after + 1 });
    };
    if depth == MAX_DEPTH {
        return Err(error("variables are nested more than 16 deep"));
    }
    // Variables of the other value are expanded to find its end, but only those of the value taken count as unset.
    let mut inner_unset = Vec::new();
    let other = until_brace(text, after + operator.len(), env, depth + 1, &mut inner_unset)?
        .ok_or_else(|| error("the '${' of this variable is not closed by '}'"))?;
    let set = env.get(name).filter(|v| !(operator.starts_with(':') && v.is_empty()));
    let value = match (operator.ends_with('+'), set) {
        (true, None) => String::new(),
        (false, Some(value)) => value.clone(),
        (true, Some(_)) | (false, None) => {
            unset.append(&mut inner_unset);
            other.value
        }
    };
    Ok(Found { value, end: other.end })
}

/// Expands from byte `at` to the `}` that closes; `None` if there is none on the same line.
fn until_brace(
    text: &str,
    mut at: usize,
    env: &BTreeMap<String, String>,
    depth: usize,
    unset: &mut Vec<(String, usize)>,
) -> Result<Option<Found>, ExpandError> {
    let mut value = String::new();
    loop {
        let Some(stop) = text[at..].find(['$', '}', '\n']).map(|i| at + i) else { return Ok(None) };
        value.push_str(&text[at..stop]);
        match text.as_bytes().get(stop) {
            Some(b'}') => return Ok(Some(Found { value, end: stop + 1 })),
            Some(b'$') => {
                let found = variable(text, stop, env, depth, unset)?;
                value.push_str(&found.value);
                at = found.end;
            }
            _ => return Ok(None),
        }
    }
}

/// Bytes of the variable name that `text` begins with.
fn name_length(text: &str) -> usize {
    let digit_first = text.starts_with(|c: char| c.is_ascii_digit());
    if digit_first {
        return 0;
    }
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> BTreeMap<String, String> {
        [("V", "value"), ("E", ""), ("LONG", "a rather long text")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    fn expand(text: &str) -> String {
        Expanded::new(text, &env()).unwrap().text
    }

    #[test]
    fn all_forms() {
        for (text, want) in [
            ("$V ${V} x${V}y $Vx", "value value xvaluey $Vx"),
            ("${V-x} ${E-x} ${U-x}", "value  x"),
            ("${V:-x} ${E:-x} ${U:-x}", "value x x"),
            ("${V=x} ${E=x} ${U=x}", "value  x"),
            ("${V:=x} ${E:=x} ${U:=causeway/frr:8.4}", "value x causeway/frr:8.4"),
            ("${V+x} ${E+x} ${U+x}|", "x x |"),
            ("${V:+x} ${E:+x} ${U:+x}|", "x  |"),
            ("$$V $${V} $$$$", "$V ${V} $$"),
            ("$U ${U} $(id) $1 $", "$U ${U} $(id) $1 $"),
            ("${U:-${V:-y}}${U:-$$}${U:-}", "value$"),
        ] {
            assert_eq!(expand(text), want, "{text}");
        }
    }

    #[test]
    fn open_braces_are_errors_with_a_place() {
        for (text, offset) in [("ab ${V", 3), ("${V:-x\n}", 0), ("${}", 0), ("x ${V!}", 2), ("${1}", 0)] {
            assert_eq!(Expanded::new(text, &env()).err().map(|e| e.offset), Some(offset), "{text}");
        }
    }

    #[test]
    fn unset_variables_are_remembered_only_where_they_count() {
        let expanded = Expanded::new("$U ${V:-$W} ${X:-$Y}", &env()).unwrap();
        assert_eq!(expanded.unset, [("U".to_owned(), 0), ("Y".to_owned(), 17)]);
    }

    #[test]
    fn offsets_map_back() {
        let expanded = Expanded::new("a: ${LONG} b\nc: $V d", &env()).unwrap();
        for word in ["a:", " b", "c:", " d"] {
            let (at, was) = (expanded.text.find(word).unwrap(), expanded.original.find(word).unwrap());
            assert_eq!(expanded.original_offset(at), was, "{word}");
        }
        let inside = expanded.text.find("long").unwrap();
        assert_eq!(expanded.original_offset(inside), 3);
    }
}
