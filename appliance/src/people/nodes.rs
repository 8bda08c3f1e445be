//! Commands about nodes.

use anyhow::Result;
use reqwest::Method;
use web_api::{Hex, NodeInfo, SiteInfo};

use super::quoted;
use crate::{HqChoice, Output, client};

/// `lamplighter nodes`.
#[derive(Debug, clap::Args)]
pub(crate) struct NodesArguments {
    /// Revoke the node with this key.
    #[arg(long)]
    revoke: Option<Hex<32>>,
    /// The site of a node that HQ has not met: a neighbour certified it while HQ was away, and it shows its key on its screen.
    #[arg(long, requires = "revoke")]
    site: Option<String>,
    #[command(flatten)]
    hq: HqChoice,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn nodes(arguments: NodesArguments) -> Result<()> {
    let client = client::for_people(&arguments.hq)?;
    if let Some(key) = arguments.revoke {
        let of_site = match &arguments.site {
            Some(name) => {
                let path = format!("/sites/{}", quoted(name));
                let site: SiteInfo = client.get(&path).await?;
                format!("?site={}", site.id)
            }
            None => String::new(),
        };
        let path = format!("/nodes/{key}/revoke{of_site}");
        let request = client.request(Method::POST, &path);
        client.send(request.json(&serde_json::json!({}))).await?;
    }
    let nodes: Vec<NodeInfo> = client.get("/nodes").await?;
    arguments.output.print(&nodes, |nodes| {
        let line = |n: &NodeInfo| {
            let state = if n.revoked {
                "revoked"
            } else {
                n.origin.as_str()
            };
            format!("{} {:20} {:24} {state}\n", n.key, n.site, n.name)
        };
        nodes.iter().map(line).collect()
    })
}
