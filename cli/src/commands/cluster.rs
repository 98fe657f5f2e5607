//! `cluster status`: who leads, who votes, how far each node is.

use super::{App, agreed};
use crate::args::{Cluster, ClusterVerb};
use crate::error::{Exit, Result};
use crate::output::agreed::{ClusterView, cluster_text};

pub(crate) async fn run(app: &App, args: &Cluster) -> Result<Exit> {
    match args.verb {
        ClusterVerb::Status => status(app).await,
    }
}

async fn status(app: &App) -> Result<Exit> {
    let attached = app.attach().await?;
    let view = ClusterView::from(&agreed::agreement(&attached, app.question()).await?);
    app.output.result(&view, cluster_text(&view))?;
    Ok(Exit::Ok)
}
