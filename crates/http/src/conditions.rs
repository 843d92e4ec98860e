//! `If-Match` and `If-None-Match`: entity tags are revisions.

use axum::http::{HeaderMap, HeaderName, header};
use raftkv_kv::Precondition;

use crate::problem::Problem;

/// What a read wants to hold before it gets the value, as RFC 9110 (13.1) says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadConditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// Which entity tags a condition names.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    Any,
    /// What is not a tag of this server is left out: it equals no revision.
    Revisions(Vec<u64>),
}

impl Tags {
    fn contain(&self, revision: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Revisions(named) => named.contains(&revision),
        }
    }
}

/// What a read is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The value.
    Full,
    /// 304: the client has it already.
    NotModified,
    /// 412.
    Failed,
}

impl ReadConditions {
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            if_match: tags(headers, &header::IF_MATCH, Comparison::Strong)?,
            if_none_match: tags(headers, &header::IF_NONE_MATCH, Comparison::Weak)?,
        })
    }

    /// Decides for the key's revision; `None` = no such key.
    pub(crate) fn check(&self, revision: Option<u64>) -> Verdict {
        let named_by = |tags: &Tags| revision.is_some_and(|revision| tags.contain(revision));
        if !self.if_match.as_ref().is_none_or(named_by) {
            Verdict::Failed
        } else if self.if_none_match.as_ref().is_some_and(named_by) {
            Verdict::NotModified
        } else {
            Verdict::Full
        }
    }
}

/// What must hold for a write: `If-Match: "revision"`, `If-Match: *` or `If-None-Match: *`.
pub(crate) fn write_precondition(headers: &HeaderMap) -> Result<Option<Precondition>, Problem> {
    let if_match = if_match(headers)?;
    let Some(none_match) = one_line(headers, &header::IF_NONE_MATCH)? else {
        return Ok(if_match);
    };
    if none_match != "*" {
        return Err(invalid("a write takes If-None-Match only as *"));
    }
    if if_match.is_some() {
        return Err(invalid("If-Match and If-None-Match cannot both hold"));
    }
    Ok(Some(Precondition::Absent))
}

fn if_match(headers: &HeaderMap) -> Result<Option<Precondition>, Problem> {
    match one_line(headers, &header::IF_MATCH)? {
        None => Ok(None),
        Some("*") => Ok(Some(Precondition::Present)),
        Some(tag) if tag.contains(',') => Err(invalid("If-Match takes one entity tag, not a list")),
        Some(tag) if tag.starts_with("W/") => Err(invalid("If-Match takes no weak entity tag")),
        Some(tag) => match revision_of(tag) {
            Some(revision) => Ok(Some(Precondition::Revision(revision))),
            None => Err(invalid("If-Match takes * or an ETag of this server: a revision in quotes")),
        },
    }
}

/// How a tag in a condition is compared with a revision, whose tag is strong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// A weak tag equals nothing.
    Strong,
    /// A weak tag equals the strong one with the same text.
    Weak,
}

/// The tags of a read's condition, of all its lines together. What is malformed makes an `If-Match` an error, because it must not
/// hold by mistake; in an `If-None-Match` it names nothing, and the client gets the value.
fn tags(headers: &HeaderMap, name: &HeaderName, comparison: Comparison) -> Result<Option<Tags>, Problem> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let mut revisions = Vec::new();
    let (mut is_any, mut is_empty) = (false, true);
    let malformed = || invalid(&format!("{name} takes * or entity tags in quotes, separated by commas"));
    for line in headers.get_all(name) {
        let mut rest = line.as_bytes().trim_ascii();
        if rest == b"*" {
            is_any = true;
            continue;
        }
        while let Some((&first, after)) = rest.split_first() {
            if first == b',' || first.is_ascii_whitespace() {
                rest = after;
                continue;
            }
            is_empty = false;
            let tag = entity_tag(rest).map(|(tag, after)| (tag, after.trim_ascii_start()));
            let Some((tag, after)) = tag.filter(|(_, after)| after.is_empty() || after.starts_with(b",")) else {
                if comparison == Comparison::Strong {
                    return Err(malformed());
                }
                rest = rest.iter().position(|&byte| byte == b',').map_or(&[], |comma| &rest[comma..]);
                continue;
            };
            rest = after;
            if comparison == Comparison::Weak || !tag.is_weak {
                revisions.extend(tag.revision());
            }
        }
    }
    if comparison == Comparison::Strong && !is_any && is_empty {
        return Err(malformed());
    }
    Ok(Some(if is_any { Tags::Any } else { Tags::Revisions(revisions) }))
}

/// An entity tag, of this server or not.
struct EntityTag<'a> {
    is_weak: bool,
    /// Without its quotes.
    opaque: &'a [u8],
}

impl EntityTag<'_> {
    fn revision(&self) -> Option<u64> {
        std::str::from_utf8(self.opaque).ok().and_then(number)
    }
}

/// The entity tag that `text` begins with, and what follows it. A comma may stand inside its quotes.
fn entity_tag(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let weak = text.strip_prefix(b"W/");
    let quoted = weak.unwrap_or(text).strip_prefix(b"\"")?;
    let end = quoted.iter().position(|&byte| byte == b'"')?;
    Some((EntityTag { is_weak: weak.is_some(), opaque: &quoted[..end] }, &quoted[end + 1..]))
}

fn one_line<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(invalid(&format!("{name} is there more than once")));
    }
    line.to_str().map(|text| Some(text.trim())).map_err(|_| invalid(&format!("{name} is not text")))
}

fn revision_of(tag: &str) -> Option<u64> {
    number(tag.strip_prefix('"')?.strip_suffix('"')?)
}

/// The revision that is written so.
fn number(digits: &str) -> Option<u64> {
    // `parse` would take a sign, and two tags for one revision.
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
}

fn invalid(detail: &str) -> Problem {
    Problem::bad_request("invalid_precondition", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, axum::http::HeaderValue::from_static(value));
        }
        headers
    }

    const MATCH: HeaderName = header::IF_MATCH;
    const NONE: HeaderName = header::IF_NONE_MATCH;

    #[test]
    fn a_write_takes_one_strong_tag_or_a_star() {
        for (lines, wanted) in [
            (vec![], None),
            (vec![(MATCH, "\"17\"")], Some(Precondition::Revision(17))),
            (vec![(MATCH, " * ")], Some(Precondition::Present)),
            (vec![(NONE, "*")], Some(Precondition::Absent)),
        ] {
            assert_eq!(write_precondition(&headers(&lines)), Ok(wanted));
        }
        for lines in [
            vec![(MATCH, "W/\"1\"")],
            vec![(MATCH, "\"1\", \"2\"")],
            vec![(MATCH, "\"1\""), (MATCH, "\"2\"")],
            vec![(MATCH, "1")],
            vec![(MATCH, "\"+1\"")],
            vec![(MATCH, "\"01\"")],
            vec![(MATCH, "\"18446744073709551616\"")],
            vec![(MATCH, "")],
            vec![(NONE, "\"1\"")],
            vec![(NONE, "*"), (MATCH, "*")],
        ] {
            let problem = write_precondition(&headers(&lines)).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.code), (400, "invalid_precondition"), "{lines:?}");
        }
    }

    #[test]
    fn a_read_is_answered_by_what_the_client_has() {
        let check = |lines: &[_], revision| ReadConditions::parse(&headers(lines)).unwrap().check(revision);
        assert_eq!(check(&[], Some(5)), Verdict::Full);
        assert_eq!(check(&[(NONE, "\"4\", W/\"5\"")], Some(5)), Verdict::NotModified);
        assert_eq!(check(&[(NONE, "\"4\", \"abc\"")], Some(5)), Verdict::Full);
        assert_eq!(check(&[(NONE, "*")], Some(5)), Verdict::NotModified);
        assert_eq!(check(&[(NONE, "*")], None), Verdict::Full);
        assert_eq!(check(&[(NONE, "\"a,b\",, W/\"x\" , \"5\",")], Some(5)), Verdict::NotModified);
        assert_eq!(check(&[(NONE, "\"4\""), (NONE, "\"5\"")], Some(5)), Verdict::NotModified);
        assert_eq!(check(&[(MATCH, "\"5\"")], Some(5)), Verdict::Full);
        assert_eq!(check(&[(MATCH, "\"4\", \"5\"")], Some(5)), Verdict::Full);
        assert_eq!(check(&[(MATCH, "\"4\""), (MATCH, "\"5\"")], Some(5)), Verdict::Full);
        assert_eq!(check(&[(MATCH, "\"4\", \"6\"")], Some(5)), Verdict::Failed);
        assert_eq!(check(&[(MATCH, "\"4\", \"5\"")], None), Verdict::Failed);
        assert_eq!(check(&[(MATCH, "\"4\"")], Some(5)), Verdict::Failed);
        // Weak tags never match strongly, tags of others name no revision.
        for tag in ["W/\"5\"", "\"abc\"", "\"05\"", "\"+5\"", "\"5,5\"", "\"\""] {
            assert_eq!(check(&[(MATCH, tag)], Some(5)), Verdict::Failed, "{tag}");
        }
        assert_eq!(check(&[(MATCH, "*")], Some(5)), Verdict::Full);
        // First If-Match, then If-None-Match.
        assert_eq!(check(&[(MATCH, "\"5\""), (NONE, "\"5\"")], Some(5)), Verdict::NotModified);
        assert_eq!(check(&[(MATCH, "\"4\""), (NONE, "\"5\"")], Some(5)), Verdict::Failed);
        assert_eq!(check(&[(MATCH, "*")], None), Verdict::Failed);
        for text in ["", ",", "5", "\"5", "\"5\" \"6\"", "w/\"5\"", "*, \"5\""] {
            let problem = ReadConditions::parse(&headers(&[(MATCH, text)])).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.code), (400, "invalid_precondition"), "{text}");
            assert_eq!(check(&[(NONE, text)], Some(6)), Verdict::Full, "{text}");
        }
        assert_eq!(check(&[(NONE, "5, \"6\"")], Some(6)), Verdict::NotModified);
    }
}
