//! A store that keeps nothing, for measuring what everything else costs.

use super::{Group, MailStore, Message, MessageFilter, MessageSummary, Result, StoreError, User, UserChange};
use async_trait::async_trait;
use uuid::Uuid;

/// Takes every message and forgets it. It has no users.
#[derive(Debug)]
pub struct Discard;

fn nothing<T>() -> Result<T> {
    Err(StoreError::Refused("discard: keeps nothing".to_owned()))
}

#[async_trait]
impl MailStore for Discard {
    async fn find_user(&self, _local_part: &str, _domain: Option<&str>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn users_named(&self, _local_part: &str, _domain: Option<&str>) -> Result<Vec<User>> {
        Ok(Vec::new())
    }

    async fn expand_group(&self, _name: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn store_message(&self, _message: Message) -> Result<()> {
        Ok(())
    }

    fn message_octets_max(&self) -> u64 {
        u64::MAX
    }

    fn takes_octets(&self) -> bool {
        false
    }

    async fn add_user(&self, _user: &User) -> Result<()> {
        nothing()
    }

    async fn set_user(&self, _username: &str, _domain: &str, _change: &UserChange) -> Result<bool> {
        nothing()
    }

    async fn remove_user(&self, _username: &str, _domain: &str) -> Result<bool> {
        nothing()
    }

    async fn list_users(&self) -> Result<Vec<User>> {
        Ok(Vec::new())
    }

    async fn list_groups(&self) -> Result<Vec<Group>> {
        Ok(Vec::new())
    }

    async fn list_messages(&self, _filter: &MessageFilter) -> Result<Vec<MessageSummary>> {
        Ok(Vec::new())
    }

    async fn message(&self, _id: Uuid) -> Result<Option<Message>> {
        Ok(None)
    }

    async fn remove_message(&self, _id: Uuid) -> Result<bool> {
        Ok(false)
    }

    async fn close(&self) {}
}
