// Package process starts the user's programs and ends them: whole trees of
// them, with everything they wrote up to a limit. It owns fork and exec in the
// agent; nothing else there starts a process. It must not know what a program
// is for, nor HTTP.
//
// Every process started here carries a tag that its descendants inherit: the
// soft RLIMIT_RSS, which neither Linux nor gVisor enforces. Unlike a process
// group, a parent or an environment variable, a tag survives setsid, a double
// fork and an empty environment, so that ending a job finds all of it.
package process
