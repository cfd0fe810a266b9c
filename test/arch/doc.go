// Package arch holds the rules of this repository as tests: which package may
// import which, which third-party module has which owner, what a binary must
// never contain, and how files and comments are kept. A rule is changed here,
// in the same commit as the code that needs it changed, with the reason.
package arch
