// Package member makes modules into a domain.
//
// A module is unclaimed until the administrator of a domain claims it: it
// announces itself on the management network (Announce, Finder) and shows its
// key's fingerprint on its console; it does nothing else, and nothing makes it
// join but a claim that reaches it. From then on its State names the domain,
// survives every restart, and makes it refuse all others until a factory reset.
//
// The domain's side is Claims: it checks the rules (Decide, pure), calls the
// module with its key pinned, signs its certificate, makes room for it among
// the voters and hands it the Ticket. What was begun is written in the module's
// record first, so that Advance goes on with it after any crash, until the
// module has its vote.
//
// Announcements are signed by the module's key and believed in one thing only:
// where to look. Whoever claims compares the fingerprint with the console.
package member
