//! Reading a line of text: what the parsers of graphs and of nests share.

/// The rest of a line. Every method skips leading space.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    line: &'a str,
    /// What has not been read.
    pub rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// At the start of a line.
    pub fn new(line: &'a str) -> Cursor<'a> {
        Cursor { line, rest: line }
    }

    /// The place in the line in characters, counted from 1.
    pub fn column(&self) -> usize {
        self.line[..self.line.len() - self.rest.len()].chars().count() + 1
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Reads the token if it comes next.
    pub fn eat(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Reads the token, which must come next.
    pub fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}` at `{}`", self.rest)) }
    }

    /// Nothing but space may be left.
    pub fn end(&mut self) -> Result<(), String> {
        self.skip();
        if self.rest.is_empty() { Ok(()) } else { Err(format!("unexpected `{}`", self.rest)) }
    }

    /// The characters that are of a kind; may be none.
    pub fn take(&mut self, ok: impl Fn(char) -> bool) -> &'a str {
        self.skip();
        let end = self.rest.find(|c| !ok(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// The text before the next token, which is read, too.
    pub fn until(&mut self, token: &str) -> Result<&'a str, String> {
        let (before, rest) = self.rest.split_once(token).ok_or_else(|| format!("expected `{token}` after `{}`", self.rest))?;
        self.rest = rest;
        Ok(before)
    }

    /// A word of letters, digits, `_` and `.` that does not begin with a dot; may be empty.
    pub fn word(&mut self) -> &'a str {
        self.skip();
        if self.rest.starts_with('.') { "" } else { self.take(|c| c.is_alphanumeric() || c == '_' || c == '.') }
    }

    /// A label of letters, digits and `_`.
    pub fn label(&mut self) -> Result<String, String> {
        let label = self.take(|c| c.is_alphanumeric() || c == '_');
        if label.is_empty() { Err(format!("expected a label at `{}`", self.rest)) } else { Ok(label.into()) }
    }

    /// A word, or any name as a JSON string.
    pub fn name(&mut self) -> Result<String, String> {
        self.skip();
        if self.rest.starts_with('"') {
            let value = self.json()?;
            return value.as_str().map(String::from).ok_or_else(|| format!("{value} is no name"));
        }
        let name = self.word();
        if name.is_empty() { Err(format!("expected a name at `{}`", self.rest)) } else { Ok(name.into()) }
    }

    /// An integer with its sign.
    pub fn integer(&mut self) -> Result<i64, String> {
        let sign = if self.eat("-") { "-" } else { "" };
        let text = format!("{sign}{}", self.take(|c| c.is_ascii_digit()));
        text.parse().map_err(|e| format!("`{text}`: {e}"))
    }

    /// A JSON value.
    pub fn json(&mut self) -> Result<serde_json::Value, String> {
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<serde_json::Value>();
        let value = values.next().ok_or("expected a JSON value")?.map_err(|e| e.to_string())?;
        self.rest = &self.rest[values.byte_offset()..];
        Ok(value)
    }
}
