DROP FUNCTION loginpipe.share_replica_identity(text);
ALTER TABLE loginpipe.daily_logins REPLICA IDENTITY DEFAULT;
