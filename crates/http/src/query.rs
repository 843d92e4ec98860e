//! [`Query`]: the parameters after the question mark, as bytes.

use axum::http::request::Parts;

use crate::problem::Problem;

/// The parameters of a request. Values are bytes: a key need not be UTF-8.
///
/// `+` means a space, as in HTML forms and in every client library; a plus is `%2B`.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Query {
    /// The parameters of the request's URI.
    pub(crate) fn of(parts: &Parts) -> Result<Self, Problem> {
        match parts.uri.query() {
            None | Some("") => Ok(Self::default()),
            Some(raw) => Self::parse(raw),
        }
    }

    fn parse(raw: &str) -> Result<Self, Problem> {
        let pairs = raw
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((percent_decode(name, true)?, percent_decode(value, true)?))
            })
            .collect::<Result<_, Problem>>()?;
        Ok(Self { pairs })
    }

    /// Takes a parameter out.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        let Some(at) = self.pairs.iter().position(|(n, _)| n == name.as_bytes()) else {
            return Ok(None);
        };
        let (_, value) = self.pairs.swap_remove(at);
        if self.pairs.iter().any(|(n, _)| n == name.as_bytes()) {
            return Err(invalid(name, "it is given twice"));
        }
        Ok(Some(value))
    }

    /// Takes a parameter out that is text.
    pub(crate) fn take_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        self.take(name)?.map(|value| String::from_utf8(value).map_err(|_| invalid(name, "it is not UTF-8"))).transpose()
    }

    /// Takes a parameter out that is true or false; without a value it is true.
    pub(crate) fn take_flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take(name)?.as_deref() {
            None | Some(b"false" | b"0") => Ok(false),
            Some(b"" | b"true" | b"1") => Ok(true),
            Some(_) => Err(invalid(name, "it is neither true nor false")),
        }
    }

    /// Refuses what no one took: a misspelt parameter must not silently mean nothing.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::bad_request(
                "unknown_parameter",
                format!("there is no parameter {:?} here", String::from_utf8_lossy(name)),
            )),
        }
    }
}

/// A parameter that cannot be used as it is.
pub(crate) fn invalid(name: &str, why: &str) -> Problem {
    Problem::bad_request("invalid_parameter", format!("the parameter {name} cannot be used: {why}"))
}

/// Undoes percent-encoding; with `plus`, `+` is a space.
pub(crate) fn percent_decode(text: &str, plus: bool) -> Result<Vec<u8>, Problem> {
    let hex = |byte: Option<&u8>| byte.and_then(|&b| char::from(b).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((&byte, rest)) = bytes.split_first() {
        bytes = rest;
        match byte {
            b'%' => match (hex(rest.first()), hex(rest.get(1))) {
                (Some(high), Some(low)) => {
                    out.push((high << 4 | low) as u8);
                    bytes = &rest[2..];
                }
                _ => {
                    return Err(Problem::bad_request(
                        "malformed_uri",
                        "a % in the URI is not followed by two hexadecimal digits; a percent sign itself is %25",
                    ));
                }
            },
            b'+' if plus => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bytes() {
        let mut query = Query::parse("prefix=%ff%00a+b%2B&flag&empty=&x=1").unwrap();
        assert_eq!(query.take("prefix").unwrap().unwrap(), b"\xff\0a b+");
        assert!(query.take_flag("flag").unwrap());
        assert_eq!(query.take("empty").unwrap().unwrap(), b"");
        assert_eq!(query.take("missing").unwrap(), None);
        assert_eq!(query.finish().unwrap_err().code, "unknown_parameter");
    }

    #[test]
    fn what_is_doubtful_is_refused() {
        assert_eq!(Query::parse("a=%f").unwrap_err().code, "malformed_uri");
        assert_eq!(Query::parse("a=%zz").unwrap_err().code, "malformed_uri");
        let twice = Query::parse("a=1&a=2").unwrap().take("a").unwrap_err();
        assert_eq!(twice.code, "invalid_parameter");
        assert!(Query::parse("a=%ff").unwrap().take_text("a").is_err());
        assert!(Query::parse("a=maybe").unwrap().take_flag("a").is_err());
    }

    #[test]
    fn a_path_keeps_its_plus() {
        assert_eq!(percent_decode("a+b%2Fc", false).unwrap(), b"a+b/c");
    }
}
