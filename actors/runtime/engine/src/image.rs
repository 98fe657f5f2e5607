//! Images: whether one is there, pulling, and bringing in what is in a file.

use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ImportImageOptionsBuilder, RemoveImageOptionsBuilder,
    TagImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;

use crate::container::pair_of;
use crate::engine::{CHANGE, Engine, LOOK, limited};
use crate::error::Error;
use crate::raw::Ask;

/// A pull that says nothing for so long is given up.
const PULL_SILENCE: Duration = Duration::from_secs(120);

/// An image that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration: equal ids, equal images.
    pub id: String,
    /// `repository@sha256:…`, as registries know it; empty for one that came from a file.
    pub digests: Vec<String>,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// Its entry point.
    pub entrypoint: Vec<String>,
    /// Its user.
    pub user: String,
    /// Its working directory.
    pub workdir: String,
    /// Bytes.
    pub size: u64,
}

impl Image {
    /// The digest to record beside a tag: the one its repository knows it by, else the image's id.
    pub fn digest(&self, reference: &str) -> &str {
        let repository = repository(reference);
        self.digests
            .iter()
            .filter_map(|known| known.split_once('@'))
            .find(|(name, _)| *name == repository || name.ends_with(&format!("/{repository}")))
            .map_or(self.id.as_str(), |(_, digest)| digest)
    }

    /// Whether it is the one of that digest: a registry's, or an image's id.
    pub fn has_digest(&self, digest: &str) -> bool {
        self.id == digest
            || self
                .digests
                .iter()
                .any(|known| known.rsplit_once('@').is_some_and(|(_, d)| d == digest))
    }
}

/// `registry:5000/a/b:tag@sha256:…` without tag and digest.
fn repository(reference: &str) -> &str {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    match name.get(last..).and_then(|part| part.find(':')) {
        Some(colon) => name.get(..last + colon).unwrap_or(name),
        None => name,
    }
}

/// How a node logs in to a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// The registry; empty: the one of the reference.
    pub registry: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// One step of a pull, in the engine's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// The layer; empty: all of it.
    pub layer: String,
    /// What is being done.
    pub status: String,
    /// Bytes done, if it is said.
    pub done: Option<u64>,
    /// Bytes in all, if it is said.
    pub total: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Inspect {
    id: Option<String>,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    size: Option<i64>,
    config: Option<Config>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    user: Option<String>,
    env: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    working_dir: Option<String>,
}

impl From<Inspect> for Image {
    fn from(inspect: Inspect) -> Self {
        let config = inspect.config.unwrap_or_default();
        Self {
            id: inspect.id.unwrap_or_default(),
            digests: inspect.repo_digests.unwrap_or_default(),
            tags: inspect.repo_tags.unwrap_or_default(),
            env: config.env.unwrap_or_default().iter().map(|pair| pair_of(pair)).collect(),
            cmd: config.cmd.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            workdir: config.working_dir.unwrap_or_default(),
            size: inspect.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
        }
    }
}

impl Engine {
    /// The image of that reference or id; `None`: it is not on the node.
    ///
    /// # Errors
    /// The engine's.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, Error> {
        let what = format!("inspect image {}", referenced(reference)?);
        let path = self.path(&format!("/images/{reference}/json"));
        let got = limited(&what, LOOK, Ask::get(self.socket(), &what, path).bytes()).await;
        let json = match got {
            Ok(json) => json,
            Err(
                Error::ImageMissing { .. }
                | Error::NotFound { .. }
                | Error::Refused { status: 404, .. },
            ) => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = serde_json::from_slice::<Inspect>(&json);
        read.map(|inspect| Some(inspect.into()))
            .map_err(|error| Error::Answer { what, message: error.to_string() })
    }

    /// The image, pulled unless it is there. A reference with a digest, or `digest` if it is not
    /// empty, must be met by what is there; a bare tag is met by any image of that name.
    ///
    /// # Errors
    /// Those of [`Engine::pull`]; [`Error::ImageNotFound`] if the tag now means another digest.
    pub async fn ensure_image(
        &self,
        reference: &str,
        digest: &str,
        credentials: Option<Credentials>,
        progress: impl FnMut(PullProgress) + Send,
    ) -> Result<Image, Error> {
        let meets = |image: &Image| digest.is_empty() || image.has_digest(digest);
        if let Some(image) = self.image(reference).await?.filter(meets) {
            return Ok(image);
        }
        let image = self.pull(reference, credentials, progress).await?;
        if meets(&image) {
            return Ok(image);
        }
        Err(Error::ImageNotFound {
            image: reference.to_owned(),
            message: format!("its tag now means {}, not {digest}", image.digest(reference)),
        })
    }

    /// Pulls an image, and says how it goes on.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`], [`Error::ImageDenied`], [`Error::RegistryUnreachable`],
    /// [`Error::DiskFull`]; [`Error::Timeout`] when nothing is heard for two minutes.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        mut progress: impl FnMut(PullProgress) + Send,
    ) -> Result<Image, Error> {
        use bollard::errors::Error as Theirs;
        let what = format!("pull {}", referenced(reference)?);
        let options = CreateImageOptionsBuilder::new().from_image(reference).build();
        let credentials = credentials.map(|given| DockerCredentials {
            username: Some(given.username),
            password: Some(given.password),
            serveraddress: Some(given.registry).filter(|registry| !registry.is_empty()),
            ..DockerCredentials::default()
        });
        let mut steps = self.docker.create_image(Some(options), None, credentials);
        loop {
            let step = tokio::time::timeout(PULL_SILENCE, steps.next()).await;
            match step {
                Err(_) => return Err(Error::Timeout { what, after: PULL_SILENCE }),
                Ok(None) => break,
                Ok(Some(Ok(step))) => {
                    let detail = step.progress_detail.unwrap_or_default();
                    let size = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok());
                    progress(PullProgress {
                        layer: step.id.unwrap_or_default(),
                        status: step.status.unwrap_or_default(),
                        done: size(detail.current),
                        total: size(detail.total),
                    });
                }
                Ok(Some(Err(
                    Theirs::DockerResponseServerError { message: error, .. }
                    | Theirs::DockerStreamError { error },
                ))) => return Err(Error::pulling(reference, &error)),
                Ok(Some(Err(error))) => return Err(Error::of(&what, self.socket(), error)),
            }
        }
        drop(steps);
        self.image(reference).await?.ok_or_else(|| Error::ImageNotFound {
            image: reference.to_owned(),
            message: "the engine says it was pulled, and has not got it".into(),
        })
    }

    /// Makes an image of a tar of a root directory (as `podman import` does), and gives its id.
    ///
    /// # Errors
    /// [`Error::DiskFull`], the engine's others.
    pub async fn import(
        &self,
        tar: impl Stream<Item = Bytes> + Send + 'static,
        repository: &str,
        tag: &str,
    ) -> Result<String, Error> {
        let what = format!("import {}:{tag}", referenced(repository)?);
        // Named afterwards: Podman takes no tag here.
        let options = CreateImageOptionsBuilder::new().from_src("-").build();
        let mut steps =
            self.docker.create_image(Some(options), Some(bollard::body_stream(tar)), None);
        let mut id = None;
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| Error::of(&what, self.socket(), error))?;
            let said = step.id.or(step.status).filter(|said| said.starts_with("sha256:"));
            id = said.or(id);
        }
        let id = id.ok_or_else(|| Error::Answer {
            what,
            message: "it does not say which image it has made".into(),
        })?;
        self.tag(&id, repository, tag).await?;
        Ok(id)
    }

    /// Brings in images that `podman save` or `docker save` wrote.
    ///
    /// # Errors
    /// [`Error::DiskFull`], the engine's others.
    pub async fn load(
        &self,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), Error> {
        let what = "load images";
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let mut steps = self.docker.import_image_stream(options, archive, None);
        while let Some(step) = steps.next().await {
            step.map_err(|error| Error::of(what, self.socket(), error))?;
        }
        Ok(())
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], the engine's others.
    pub async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<(), Error> {
        let what = format!("tag {}", referenced(image)?);
        let options = TagImageOptionsBuilder::new().repo(referenced(repository)?).tag(tag).build();
        self.call(&what, CHANGE, self.docker.tag_image(image, Some(options))).await
    }

    /// Removes an image; if it is not there, that is fine.
    ///
    /// # Errors
    /// [`Error::Conflict`] while a container uses it, the engine's others.
    pub async fn remove_image(&self, image: &str) -> Result<(), Error> {
        let what = format!("remove image {}", referenced(image)?);
        let options = RemoveImageOptionsBuilder::new().build();
        match self.call(&what, CHANGE, self.docker.remove_image(image, Some(options), None)).await {
            Ok(_) | Err(Error::ImageMissing { .. } | Error::NotFound { .. }) => Ok(()),
            Err(Error::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A reference that can stand in a path.
fn referenced(reference: &str) -> Result<&str, Error> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-:/@".contains(&b);
    let starts = reference.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if starts && reference.bytes().all(plain) && !reference.contains("..") {
        return Ok(reference);
    }
    Err(Error::Spec {
        field: "image",
        value: reference.escape_debug().to_string(),
        problem: "expected an image reference such as registry/name:tag",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_what_stands_before_tag_and_digest() {
        assert_eq!(repository("a"), "a");
        assert_eq!(repository("r:5000/a/b"), "r:5000/a/b");
        assert_eq!(repository("r:5000/a/b:1"), "r:5000/a/b");
        assert_eq!(repository("r/a:1@sha256:00"), "r/a");
    }

    #[test]
    fn the_digest_is_the_registrys_else_the_id() {
        let image = Image {
            id: "sha256:11".into(),
            digests: vec!["r/b@sha256:33".into(), "docker.io/library/a@sha256:22".into()],
            ..Image::default()
        };
        assert_eq!(image.digest("r/b:1"), "sha256:33");
        assert_eq!(image.digest("library/a:2"), "sha256:22");
        assert_eq!(image.digest("x/y:1"), "sha256:11");
        assert!(image.has_digest("sha256:22") && image.has_digest("sha256:11"));
        assert!(!image.has_digest("sha256:44"));
    }

    #[test]
    fn what_is_no_reference_never_reaches_a_path() {
        for bad in ["", "a b", "../containers/x", "a?force=1", "-a", "a#b", "a%2e"] {
            assert!(referenced(bad).is_err(), "{bad}");
        }
        assert!(referenced("r.test:5000/a/b_c:1.2-x@sha256:ab").is_ok());
    }

    #[test]
    fn credentials_are_not_shown() {
        let credentials =
            Credentials { username: "u".into(), password: "hunter2".into(), registry: "r".into() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
