//! x
#[tokio::test] async fn x() {}
