//! Files into and out of a container, as tar archives.

use bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};

use crate::engine::{Engine, checked};
use crate::error::Error;

impl Engine {
    /// Unpacks a tar archive in a directory of a container, which need not run.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container or directory, [`Error::DiskFull`], the
    /// engine's others.
    pub async fn upload(
        &self,
        id: &str,
        directory: &str,
        tar: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<(), Error> {
        let what = format!("copy into container {}", checked(id)?);
        let options = UploadToContainerOptionsBuilder::new().path(directory).build();
        let body = bollard::body_stream(tar);
        let sent = self.docker.upload_to_container(id, Some(options), body);
        // As long as it goes on; a slow source is not the engine's fault.
        sent.await.map_err(|error| Error::of(&what, self.socket(), error))
    }

    /// A file or directory of a container as a tar archive. A path that is not there is an error
    /// of the first item.
    ///
    /// # Errors
    /// [`Error::Spec`]; the others come with the items.
    pub fn download(
        &self,
        id: &str,
        path: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let what = format!("copy from container {}", checked(id)?);
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let socket = self.socket().to_owned();
        let items = self.docker.download_from_container(id, Some(options));
        Ok(items.map(move |item| item.map_err(|error| Error::of(&what, &socket, error))).boxed())
    }
}
