//! Trials: whom they take nothing from.

use crate::{Setup, VARIANT};
use mailcell::admin::Swap;
use mailcell::admin::client::Client;
use mailcell::swap::Options;

const HOUR: u64 = 3600;

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_looks_on_takes_no_cell_from_those_who_serve() {
    let setup = Setup::start(&["--cells", "64", "--connections", "1000", "--hibernate-after", "1h"]);
    let client = Client::new(&setup.server.control());
    let digest = client.check(VARIANT.clone(), None).await.unwrap().digest;
    let options = Options { shadow: Some(100), seconds: HOUR, ..Options::default() };
    client.swap(&Swap { digest, options }).await.unwrap();
    let sessions: Vec<_> = (0..64).map(|_| setup.server.connect()).collect();
    let counts = client.status().await.unwrap().generations[0].counts;
    assert_eq!(counts.sessions, sessions.len() as u64);
}
