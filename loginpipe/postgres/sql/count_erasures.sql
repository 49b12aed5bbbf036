SELECT coalesce(sum(times), 0)
FROM loginpipe.erased_users
