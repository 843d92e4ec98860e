//! A store of login sessions with conditional writes: a session is created once, every server reads the same state, an update applies only
//! to the state that the server has read, and a deleted session stays deleted.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use raftkv_client::{Client, Condition, Endpoints, Entry, Written};
use serde::{Deserialize, Serialize};

/// Create, read, update and delete a login session with conditional writes.
#[derive(Debug, Parser)]
struct Args {
    /// HTTP address of a node or router; separate several by commas
    #[arg(long, env = "RAFTKV_ENDPOINT", default_value = "http://127.0.0.1:8080,http://127.0.0.1:8000")]
    endpoint: Endpoints,
    /// Name of the user
    #[arg(long, default_value = "ada")]
    user: String,
}

/// The state of a session, stored as a map: clients in other languages read the same fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Session {
    user: String,
    cart: Vec<String>,
}

/// The sessions of all users.
struct Sessions {
    client: Client,
}

impl Sessions {
    /// Creates a session and returns its id. The condition makes sure that an id is never given twice.
    async fn create(&self, user: &str) -> Result<String> {
        loop {
            let id = format!("{:032x}", rand::random::<u128>());
            let session = Session { user: user.to_owned(), cart: Vec::new() };
            if let Written::Applied { .. } = self.client.put(key(&id), &session, Condition::Absent).await? {
                return Ok(id);
            }
        }
    }

    async fn read(&self, id: &str) -> Result<Option<Entry<Session>>> {
        Ok(self.client.get(key(id)).await?)
    }

    /// Applies a change to the latest state. Returns `false` if the session does not exist.
    async fn update(&self, id: &str, change: impl Fn(&mut Session)) -> Result<bool> {
        loop {
            let Some(Entry { mut value, revision }) = self.read(id).await? else { return Ok(false) };
            change(&mut value);
            // Another server may have changed or deleted the session since: then the condition is false.
            if let Written::Applied { .. } = self.client.put(key(id), &value, Condition::Revision(revision)).await? {
                return Ok(true);
            }
        }
    }

    async fn delete(&self, id: &str) -> Result<()> {
        self.client.delete(key(id), Condition::Always).await?;
        Ok(())
    }
}

fn key(id: &str) -> String {
    format!("examples/session/{id}")
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let sessions = Sessions { client: Client::new(args.endpoint) };
    let id = sessions.create(&args.user).await.context("create a session")?;
    println!("created session {id} of {}", args.user);

    // Two servers add to the cart at the same time; both additions survive.
    let add = |item: &'static str| sessions.update(&id, move |session| session.cart.push(item.to_owned()));
    let (tea, milk) = tokio::join!(add("tea"), add("milk"));
    ensure!(tea? && milk?, "the session disappeared");
    let mut cart = sessions.read(&id).await?.context("the session exists")?.value.cart;
    cart.sort();
    println!("cart: {}", cart.join(", "));

    sessions.delete(&id).await?;
    ensure!(!add("sugar").await?, "a deleted session came back");
    println!("deleted session {id}");
    Ok(())
}
