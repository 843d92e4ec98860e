//! The prose of a document or doc comment: words outside code, code spans, and targets of links.

/// A word, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) line: usize,
    pub(crate) text: String,
    /// A sentence, cell or paragraph ends after it.
    pub(crate) ends: bool,
}

/// A code span or the target of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// What a text consists of.
#[derive(Debug, Default)]
pub(crate) struct Prose {
    pub(crate) words: Vec<Word>,
    pub(crate) code: Vec<Span>,
    pub(crate) links: Vec<Span>,
}

impl Prose {
    /// Reads the whole text of a document.
    pub(crate) fn of_text(text: &str) -> Self {
        Self::of_lines(text.lines().enumerate().map(|(index, line)| (index + 1, line)))
    }

    /// Reads lines with their numbers. Blocks of code are left out.
    pub(crate) fn of_lines<'a>(lines: impl IntoIterator<Item = (usize, &'a str)>) -> Self {
        let mut prose = Self::default();
        let mut paragraph = Vec::new();
        let mut fence: Option<&str> = None;
        for (number, line) in lines {
            let trimmed = line.trim();
            let mark = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
            match (fence, mark) {
                (Some(open), Some(close)) if open == close => fence = None,
                (Some(_), _) => {}
                (None, Some(open)) => {
                    prose.paragraph(&paragraph);
                    paragraph.clear();
                    fence = Some(open);
                }
                (None, None) => {
                    let is_item = ["- ", "* ", "+ ", "#", "|", "> "].into_iter().any(|mark| trimmed.starts_with(mark))
                        || trimmed.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
                    if trimmed.is_empty() || is_item {
                        prose.paragraph(&paragraph);
                        paragraph.clear();
                    }
                    if let Some(target) = definition(trimmed) {
                        prose.links.push(Span { line: number, text: target.to_owned() });
                    } else {
                        paragraph.push((number, line));
                    }
                }
            }
        }
        prose.paragraph(&paragraph);
        prose
    }

    /// Reads neighbouring lines, across which a code span or link may go.
    fn paragraph(&mut self, lines: &[(usize, &str)]) {
        let characters: Vec<(usize, char)> = lines
            .iter()
            .flat_map(|&(number, line)| line.chars().chain(['\n']).map(move |character| (number, character)))
            .collect();
        let text =
            |from: usize, to: usize| characters[from..to].iter().map(|&(_, character)| character).collect::<String>();
        let is_at = |at: usize, pattern: &str| {
            pattern.chars().enumerate().all(|(index, sign)| characters.get(at + index).is_some_and(|it| it.1 == sign))
        };
        let find = |from: usize, pattern: &str| (from..characters.len()).find(|&at| is_at(at, pattern));
        let mut at = 0;
        while at < characters.len() {
            let (line, character) = characters[at];
            let starts = |pattern: &str| is_at(at, pattern);
            if character == '`' {
                let ticks = characters[at..].iter().take_while(|it| it.1 == '`').count();
                if let Some(close) = find(at + ticks, &"`".repeat(ticks)) {
                    self.code.push(Span { line, text: text(at + ticks, close).replace('\n', " ") });
                    at = close + ticks;
                } else {
                    at += ticks;
                }
            } else if starts("<!--") {
                at = find(at, "-->").map_or(characters.len(), |close| close + 3);
            } else if starts("](")
                && let Some(close) = find(at, ")")
            {
                self.links.push(Span { line, text: text(at + 2, close) });
                at = close + 1;
            } else if starts("http://") || starts("https://") {
                at += characters[at..].iter().take_while(|it| !it.1.is_whitespace() && !"<>)|".contains(it.1)).count();
            } else if character.is_alphanumeric() {
                at += self.word(&characters[at..]);
            } else {
                if ".;:?!|".contains(character) {
                    self.end_sentence();
                }
                at += 1;
            }
        }
        self.end_sentence();
    }

    /// Adds the word that begins here; the answer is its length.
    fn word(&mut self, characters: &[(usize, char)]) -> usize {
        let mut length = 0;
        while let Some(&(_, character)) = characters.get(length) {
            let follows = || characters.get(length + 1).is_some_and(|next| next.1.is_alphanumeric());
            if !(character.is_alphanumeric() || ("'’.".contains(character) && follows())) {
                break;
            }
            length += 1;
        }
        let text: String =
            characters[..length].iter().map(|it| it.1).collect::<String>().to_lowercase().replace('’', "'");
        // Numbers are no words.
        if text.contains(|character: char| character.is_alphabetic()) {
            self.words.push(Word { line: characters[0].0, text, ends: false });
        }
        length
    }

    fn end_sentence(&mut self) {
        if let Some(last) = self.words.last_mut() {
            last.ends = true;
        }
    }
}

/// The target of a line `[name]: target`.
fn definition(line: &str) -> Option<&str> {
    let (name, target) = line.strip_prefix('[')?.split_once("]: ")?;
    (!name.contains(']')).then(|| target.split_whitespace().next()).flatten()
}

/// The places at which a phrase stands; `…` in the phrase is one to eight words of the same sentence.
pub(crate) fn find_phrase<'a>(words: &'a [Word], phrase: &str) -> Vec<&'a Word> {
    const GAP: usize = 8;
    fn matches(words: &[Word], phrase: &[&str]) -> bool {
        match phrase {
            [] => true,
            ["…", rest @ ..] => (1..=GAP.min(words.len()))
                .any(|gap| words[..gap].iter().all(|word| !word.ends) && matches(&words[gap..], rest)),
            [first, rest @ ..] => words.split_first().is_some_and(|(word, following)| {
                word.text == *first && (rest.is_empty() || (!word.ends && matches(following, rest)))
            }),
        }
    }
    let phrase: Vec<&str> = phrase.split_whitespace().collect();
    (0..words.len()).filter(|&at| matches(&words[at..], &phrase)).map(|at| &words[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Prose::of_text(text).words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_stand_outside_code_and_targets() {
        assert_eq!(
            words("The `whose()` of *it's* [page](docs/that.md).\n\n```sh\nwhat\n```\nEnd"),
            ["the", "of", "it's", "page", "end"]
        );
        assert_eq!(words("See https://who.is/what now. <!-- what\nis --> 12 of 3rd"), ["see", "now", "of", "3rd"]);
        assert_eq!(words("``a ` b`` c `open"), ["c", "open"]);
    }

    #[test]
    fn code_spans_and_links_have_lines() {
        let prose = Prose::of_text("One `a/b\nc` two\n[x](y.md#z)\n[r]: ref.md\n");
        assert_eq!(prose.code, [Span { line: 1, text: "a/b c".to_owned() }]);
        let links: Vec<_> = prose.links.iter().map(|link| (link.line, &*link.text)).collect();
        assert!(links.contains(&(3, "y.md#z")) && links.contains(&(4, "ref.md")), "{links:?}");
    }

    #[test]
    fn phrases_go_across_lines_and_not_across_sentences() {
        let prose = Prose::of_text("It goes\non. Goes. On. What is left to do is small. What is it? It is.");
        let lines: Vec<_> = find_phrase(&prose.words, "goes on").iter().map(|word| word.line).collect();
        assert_eq!(lines, [1]);
        assert_eq!(find_phrase(&prose.words, "what is … is").len(), 1);
    }
}
