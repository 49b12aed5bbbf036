DROP FUNCTION loginpipe.trim_extras(date);
