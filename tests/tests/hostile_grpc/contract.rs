//! [`Contract`]: every method of every service, and every message, read from the `.proto` files themselves. A method that is added is
//! attacked or fails the test.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};

/// What the `.proto` files say.
#[derive(Debug, Default)]
pub(super) struct Contract {
    /// In the order of the files.
    pub(super) methods: Vec<Method>,
    messages: BTreeMap<String, Vec<Field>>,
}

/// A method of a service.
#[derive(Debug, Clone)]
pub(super) struct Method {
    /// `Raft.Append`.
    pub(super) name: String,
    /// `/raftkv.raft.v1.Raft/Append`.
    pub(super) path: String,
    /// The type of its requests, with its package.
    pub(super) request: String,
}

/// A field of a message.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) is_repeated: bool,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number, a truth value, or one of an enumeration.
    Number,
    Text,
    Bytes,
    Message(String),
}

impl Contract {
    /// Reads all files of the directory `proto/proto`.
    pub(super) fn read() -> anyhow::Result<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
        let entries = std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        let mut files: Vec<_> = entries.map(|entry| anyhow::Ok(entry?.path())).collect::<Result<_, _>>()?;
        files.sort();
        let mut contract = Self::default();
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            contract.parse(&text).with_context(|| format!("parse {}", file.display()))?;
        }
        contract.resolve()?;
        Ok(contract)
    }

    /// The fields of a message.
    pub(super) fn fields(&self, message: &str) -> &[Field] {
        self.messages.get(message).map_or(&[], Vec::as_slice)
    }

    fn parse(&mut self, text: &str) -> anyhow::Result<()> {
        let tokens = tokens(text);
        let mut tokens = tokens.iter().map(String::as_str);
        let mut package = String::new();
        while let Some(token) = tokens.next() {
            match token {
                "syntax" | "import" => drop(tokens.by_ref().find(|token| *token == ";")),
                "package" => package = tokens.next().context("a package has a name")?.to_owned(),
                "service" => self.parse_service(&package, &mut tokens)?,
                "message" => self.parse_message(&package, &mut tokens)?,
                // Its values are numbers, and any number may be sent.
                "enum" => drop(tokens.by_ref().find(|token| *token == "}")),
                ";" => {}
                other => bail!("{other:?} is not known here"),
            }
        }
        Ok(())
    }

    fn parse_service<'a>(&mut self, package: &str, tokens: &mut impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
        let service = tokens.next().context("a service has a name")?;
        for token in tokens.by_ref() {
            match token {
                "{" | ";" => {}
                "}" => return Ok(()),
                "rpc" => break,
                other => bail!("{other:?} in a service"),
            }
        }
        loop {
            let name = tokens.next().context("a method has a name")?;
            let request = tokens.by_ref().skip(1).find(|token| *token != "stream").context("a method has a request")?;
            self.methods.push(Method {
                name: format!("{service}.{name}"),
                path: format!("/{package}.{service}/{name}"),
                request: qualified(package, request),
            });
            if tokens.by_ref().find(|token| matches!(*token, "rpc" | "}")) != Some("rpc") {
                return Ok(());
            }
        }
    }

    fn parse_message<'a>(&mut self, package: &str, tokens: &mut impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
        let name = tokens.next().context("a message has a name")?;
        let (mut depth, mut fields, mut words) = (0, Vec::new(), Vec::new());
        for token in tokens.by_ref() {
            match token {
                // Of the message, or of `oneof NAME`.
                "{" => {
                    depth += 1;
                    words.clear();
                }
                "}" if depth == 1 => {
                    self.messages.insert(format!("{package}.{name}"), fields);
                    return Ok(());
                }
                "}" => depth -= 1,
                ";" => {
                    fields.push(field(package, &words)?);
                    words.clear();
                }
                word => words.push(word),
            }
        }
        bail!("{name} has no end")
    }

    /// Tells enumerations, which are no messages, from messages, and finds what is named and not there.
    fn resolve(&mut self) -> anyhow::Result<()> {
        let known: Vec<String> = self.messages.keys().cloned().collect();
        for field in self.messages.values_mut().flatten() {
            if matches!(&field.kind, Kind::Message(name) if !known.contains(name)) {
                field.kind = Kind::Number;
            }
        }
        for method in &self.methods {
            ensure!(known.contains(&method.request), "{}: there is no message {}", method.name, method.request);
        }
        Ok(())
    }
}

/// `repeated bytes keys = 4`.
fn field(package: &str, words: &[&str]) -> anyhow::Result<Field> {
    let (is_repeated, words) = match words {
        ["repeated", rest @ ..] => (true, rest),
        ["optional", rest @ ..] => (false, rest),
        all => (false, all),
    };
    let [kind, _name, "=", number] = words else { bail!("{words:?} is no field") };
    let kind = match *kind {
        "uint32" | "uint64" | "int32" | "int64" | "bool" => Kind::Number,
        "string" => Kind::Text,
        "bytes" => Kind::Bytes,
        other => Kind::Message(qualified(package, other)),
    };
    Ok(Field { number: number.parse()?, kind, is_repeated })
}

fn qualified(package: &str, name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("{package}.{name}") }
}

/// Words and signs, without comments.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for line in text.lines() {
        let code = line.split_once("//").map_or(line, |(code, _)| code);
        let mut word = String::new();
        for letter in code.chars() {
            let is_sign = "{}()=;".contains(letter);
            if (is_sign || letter.is_whitespace()) && !word.is_empty() {
                tokens.push(std::mem::take(&mut word));
            }
            if is_sign {
                tokens.push(letter.to_string());
            } else if !letter.is_whitespace() {
                word.push(letter);
            }
        }
        if !word.is_empty() {
            tokens.push(word);
        }
    }
    tokens
}

#[test]
fn the_contract_is_read_as_it_is_written() -> anyhow::Result<()> {
    let contract = Contract::read()?;
    let append = contract.methods.iter().find(|method| method.name == "Raft.Append").context("Append")?;
    assert_eq!(append.path, "/raftkv.raft.v1.Raft/Append");
    assert_eq!(append.request, "raftkv.raft.v1.AppendRequest");
    let forward = contract.methods.iter().find(|method| method.name == "Raft.ForwardPropose").context("Forward")?;
    assert_eq!(forward.request, "raftkv.consensus.v1.ProposeRequest");
    let entries = &contract.fields("raftkv.raft.v1.AppendRequest")[2];
    assert_eq!((entries.number, entries.is_repeated), (3, true));
    assert_eq!(entries.kind, Kind::Message("raftkv.raft.v1.LogEntry".to_owned()));
    // The fields of a `oneof` are the message's.
    assert_eq!(contract.fields("raftkv.state_machine.v1.Entry").len(), 8);
    assert_eq!(contract.fields("raftkv.group.v1.ReadRequest")[1].kind, Kind::Number, "an enumeration");
    Ok(())
}
