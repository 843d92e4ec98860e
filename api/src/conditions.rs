//! `If-Match` and `If-None-Match`: entity tags are revisions.

use axum::http::{HeaderMap, HeaderName, header};
use raftkv_kv::Precondition;

use crate::problem::Problem;

/// What a read wants to hold before it gets the value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadConditions {
    if_match: Option<Precondition>,
    if_none_match: Option<Tags>,
}

#[derive(Debug, PartialEq, Eq)]
enum Tags {
    Any,
    Revisions(Vec<u64>),
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
        let if_none_match = match headers.get(header::IF_NONE_MATCH) {
            None => None,
            Some(_) => Some(parse_list(headers)?),
        };
        Ok(Self { if_match: if_match(headers)?, if_none_match })
    }

    /// Decides for the key's revision; `None` = no such key.
    pub(crate) fn check(&self, revision: Option<u64>) -> Verdict {
        let holds = match (self.if_match, revision) {
            (None, _) | (Some(Precondition::Present), Some(_)) => true,
            (Some(Precondition::Revision(wanted)), Some(revision)) => wanted == revision,
            (Some(_), _) => false,
        };
        if !holds {
            return Verdict::Failed;
        }
        match (&self.if_none_match, revision) {
            (Some(Tags::Any), Some(_)) => Verdict::NotModified,
            (Some(Tags::Revisions(had)), Some(revision)) if had.contains(&revision) => Verdict::NotModified,
            _ => Verdict::Full,
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

/// A list of tags. What is no tag of this server matches nothing; it is no error, the client then gets the value.
fn parse_list(headers: &HeaderMap) -> Result<Tags, Problem> {
    let mut revisions = Vec::new();
    for line in headers.get_all(header::IF_NONE_MATCH) {
        let line = line.to_str().map_err(|_| invalid("If-None-Match is not text"))?.trim();
        if line == "*" {
            return Ok(Tags::Any);
        }
        revisions.extend(line.split(',').filter_map(|tag| {
            let tag = tag.trim();
            revision_of(tag.strip_prefix("W/").unwrap_or(tag))
        }));
    }
    Ok(Tags::Revisions(revisions))
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
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
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
        assert_eq!(check(&[(MATCH, "\"5\"")], Some(5)), Verdict::Full);
        assert_eq!(check(&[(MATCH, "\"4\"")], Some(5)), Verdict::Failed);
        assert_eq!(check(&[(MATCH, "*")], None), Verdict::Failed);
    }
}
