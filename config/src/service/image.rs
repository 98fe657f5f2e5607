//! Image references (orchestration §3.4).

/// A reference taken apart: `<repository>[:<tag>][@<digest>]`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ImageRef<'a> {
    /// With the registry, if any.
    pub(crate) repository: &'a str,
    pub(crate) tag: Option<&'a str>,
    pub(crate) digest: Option<&'a str>,
}

impl<'a> ImageRef<'a> {
    /// Takes a reference apart; a registry's port is not a tag.
    pub(crate) fn parse(image: &'a str) -> Result<Self, String> {
        let bad = |why: &str| {
            Err(format!("`{image}` is not an image reference: {why}; write <repository>:<tag>"))
        };
        if image.is_empty() {
            return bad("it is empty");
        }
        if !image.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@[]".contains(c)) {
            return bad("only letters, digits and . _ - / : @ may appear");
        }
        let (name, digest) = match image.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (image, None),
        };
        if let Some(digest) = digest {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return bad("a digest is sha256: and 64 hexadecimal digits");
            }
        }
        let last = name.rfind('/').map_or(0, |at| at + 1);
        let (repository, tag) = match name.get(last..).and_then(|part| part.split_once(':')) {
            Some((part, tag)) => (name.get(..last + part.len()).unwrap_or(name), Some(tag)),
            None => (name, None),
        };
        if repository.get(last..).is_none_or(str::is_empty) || repository.starts_with('/') {
            return bad("the repository's name is missing");
        }
        if let Some(tag) = tag
            && !valid_tag(tag)
        {
            return bad("a tag is 1 to 128 letters, digits and . _ -, not starting with . or -");
        }
        Ok(Self { repository, tag, digest })
    }

    /// The part after the last `/`, before the tag: what a `build.images` key must equal.
    pub(crate) fn short(&self) -> &'a str {
        self.repository.rsplit('/').next().unwrap_or(self.repository)
    }

    /// Why this reference does not say exactly what to run, if it does not.
    pub(crate) fn unpinned(&self) -> Option<String> {
        match self.tag {
            Some(tag) if tag.eq_ignore_ascii_case("latest") => {
                Some(format!("image tag `{tag}` is not allowed"))
            }
            None if self.digest.is_none() => Some("image has no tag".to_owned()),
            _ => None,
        }
    }
}

/// Whether a text can be a tag.
pub(crate) fn valid_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !tag.starts_with(['.', '-'])
}
