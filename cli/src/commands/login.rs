//! `login` and `whoami`: the operator's certificate, renewed and shown (design §3).

use serde::Serialize;
use weft_identity::{CertificateChain, TrustBundle};
use weft_protocol::{RenewLeaf, RenewedLeaf, format_time, uptime};
use weft_wire::{ActorKind, Address, Clock, SystemClock};

use super::App;
use super::init::identity_error;
use crate::args::Login;
use crate::attach::{Attached, Attacher};
use crate::context::{Context, unauthenticated};
use crate::error::{CliError, Exit, Result};
use crate::output::views::WhoamiView;

#[derive(Serialize)]
struct View {
    name: String,
    holder: String,
    role: Option<String>,
    expires_at: String,
    via: String,
}

pub(crate) async fn login(app: &App, args: &Login) -> Result<Exit> {
    let context = app.context()?;
    let files = context.identity_files().ok_or_else(|| {
        unauthenticated(format!("context {} has no place for an operator identity", context.name))
            .help("set identity_dir in the CLI file")
    })?;
    if args.dry_run {
        app.output.would(format!("renew the certificate in {}", context.identity_dir.display()))?;
        return Ok(Exit::Ok);
    }
    let attacher = Attacher::new(&context);
    let valid = context.identity().is_ok_and(|operator| !operator.expired());
    let local = args.local || args.operator.is_some();
    let by_certificate = if valid && !local {
        match attacher.by_certificate().await {
            Ok(attached) => Ok(attached),
            Err(error) => Err(Some(error)),
        }
    } else {
        Err(None)
    };
    let (attached, locally) = match by_certificate {
        Ok(attached) => (attached, false),
        Err(why) => match attacher.locally().await {
            Ok(attached) => (attached, true),
            Err(error) => return Err(no_way(&context, why, error, valid)),
        },
    };
    let key = files.key_or_create().map_err(|e| identity_error(&e))?;
    let message = RenewLeaf {
        csr: key.csr().map_err(|e| identity_error(&e))?,
        holder: String::new(),
        operator: if locally { args.operator.clone().unwrap_or_default() } else { String::new() },
    };
    let renewed: RenewedLeaf =
        attached.ask(Address::here(ActorKind::Registry), message, app.question()).await?;
    let chain = CertificateChain::from_pem(&renewed.certificate, "the issued certificate")
        .map_err(|e| identity_error(&e))?;
    let bundle = TrustBundle::from_pem(&renewed.bundle, "the trust bundle")
        .map_err(|e| identity_error(&e))?;
    files.save_bundle(&bundle).map_err(|e| identity_error(&e))?;
    files.save_certificate(&chain).map_err(|e| identity_error(&e))?;
    show(app, &attached, &renewed)
}

fn show(app: &App, attached: &Attached, renewed: &RenewedLeaf) -> Result<Exit> {
    let role = attached.info.as_ref().map(|info| info.role.clone());
    let left = renewed.not_after.since(SystemClock.wall());
    let text = format!(
        "{} ({})\nrole     {}\nexpires  {}, in {}",
        renewed.name,
        renewed.holder,
        role.as_deref().unwrap_or("-"),
        format_time(renewed.not_after),
        uptime(left)
    );
    let view = View {
        name: renewed.name.clone(),
        holder: renewed.holder.clone(),
        role,
        expires_at: format_time(renewed.not_after),
        via: attached.via.clone(),
    };
    app.output.result(&view, text)?;
    Ok(Exit::Ok)
}

fn no_way(context: &Context, first: Option<CliError>, local: CliError, valid: bool) -> CliError {
    match first {
        Some(error) => error,
        None if valid => local,
        None => {
            // Missing, unreadable or open to others: the cause says which.
            let (what, why) = match context.identity() {
                Ok(_) => ("has expired", local.failure.message),
                Err(error) => ("cannot be used", error.failure.cause),
            };
            unauthenticated(format!("the operator certificate of context {} {what}", context.name))
                .cause(why)
                .help("run `weft login` on a node's machine: its local socket issues a new one")
        }
    }
}

pub(crate) async fn whoami(app: &App) -> Result<Exit> {
    let attached = app.attach().await?;
    let info = attached.info.as_ref().ok_or_else(|| {
        CliError::new(
            Exit::Failed,
            "unsupported",
            format!("{} runs an older Weft that cannot say who you are", attached.node()),
        )
        .help("attach to another node with --node")
    })?;
    let view = WhoamiView::new(info, attached.via.clone(), attached.expires_at);
    let expires = attached.expires_at.map_or_else(
        || "-  (no certificate is needed on the local socket)".to_owned(),
        |at| format!("{}, in {}", format_time(at), uptime(at.since(SystemClock.wall()))),
    );
    // A user of the local socket has no name in the cluster.
    let who = if info.caller_name.is_empty() {
        info.caller.clone()
    } else {
        format!("{} ({})", info.caller_name, info.caller)
    };
    let text = format!(
        "{who}\nrole     {}\nexpires  {expires}\ncluster  {}\nnode     {} {} via {}",
        info.role, info.cluster, info.node, info.version, attached.via
    );
    app.output.result(&view, text)?;
    Ok(Exit::Ok)
}
