/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a hook wants changed: of an envelope command, or of a message that is kept until the hooks
 * have spoken. A list of edits grows while a verdict is being made and then belongs to that verdict.
 * What comes from outside is judged here and nowhere else: whoever applies an edit may rely on it.
 *
 * Ownership: the list owns copies of all octets. A list belongs to one thread at a time.
 *
 * Failure modes: an edit that would not be SMTP or a header field, one too many, no memory: refused,
 * and the list is as before. Its owner then fails as a whole (half of a verdict is none).
 */
#ifndef HOOK_EDITS_H
#define HOOK_EDITS_H

#include "ring/base.h"

/* X(id, word): in the log and in messages. */
#define HOOK_EDIT_KINDS(X)                                                                         \
	/* MAIL, RCPT: the mailbox of the command. value: without brackets, empty for <> (MAIL) */ \
	X(EDIT_ADDRESS, "change-address")                                                          \
	/* MAIL, RCPT: all parameters. value: "SIZE=10 BODY=8BITMIME", may be empty */             \
	X(EDIT_PARAMS, "change-parameters")                                                        \
	/* A header field with `index` fields before it; 0: on top */                              \
	X(EDIT_HEADER_INSERT, "insert-header")                                                     \
	/* A header field behind the last one */                                                   \
	X(EDIT_HEADER_APPEND, "add-header")                                                        \
	/* The index-th field of that name, from 1; when there is none it is appended */           \
	X(EDIT_HEADER_CHANGE, "change-header")                                                     \
	X(EDIT_HEADER_DELETE, "delete-header")                                                     \
	/* Another sender (empty: <>), or other recipients: value a mailbox, name its parameters */ \
	X(EDIT_SENDER, "change-sender")                                                            \
	X(EDIT_RCPT_ADD, "add-recipient")                                                          \
	X(EDIT_RCPT_DELETE, "delete-recipient")                                                    \
	/* The next piece of a body that takes the place of the message's: plain, not dot-stuffed */ \
	X(EDIT_BODY, "replace-body")

enum hook_edit_kind {
#define X(id, word) id,
	HOOK_EDIT_KINDS(X)
#undef X
		EDIT_KIND_COUNT
};
const char *hook_edit_word(enum hook_edit_kind k);

/* Of one list, bodies not counted: who makes those knows how large a message may be. */
#define HOOK_EDITS_COUNT_MAX 1000
#define HOOK_EDITS_BYTES_MAX (1u << 20) /* names and values */
#define HOOK_EDIT_INDEX_MAX 100000u

struct hook_edit {
	enum hook_edit_kind kind;
	uint32_t index; /* HEADER_INSERT, HEADER_CHANGE, HEADER_DELETE */
	struct span name, value;
};

struct hook_edits;

/* Header fields: `name` is printable ASCII without a colon; `value` is all behind the colon, the
 * blank that usually follows it included, without the last line end. Lines of a folded value are
 * divided by LF (CRLF is taken as well), and each but the first begins with a blank and has more than
 * blanks; no NUL, no other CR. In the list they are divided by CRLF: as they go on the wire.
 * Addresses and parameters: as smtp_path_parse() and smtp_mail_params() or smtp_rcpt_params() have
 * them; a list's longest address and longest parameters fit into one command line. EDIT_ADDRESS and
 * EDIT_PARAMS are judged by `for_rcpt`, which other kinds do not look at.
 * What a kind has no use for (index, name, value) is not kept. Pieces of a body that follow each
 * other become one.
 * `*list` is NULL at first; `e` does not point into it. False: refused, see above. */
bool hook_edits_add(struct hook_edits **list, const struct hook_edit *e, bool for_rcpt) MUST_USE;
/* A header field's value, as above. *n: its octets in the list. */
bool hook_edits_value_valid(struct span value, size_t *n);
/* Those of `more` behind those of *list; takes `more`, also when it fails. NULL is an empty list.
 * A body in `more` takes the place of the one in *list: it is another verdict's. */
bool hook_edits_join(struct hook_edits **list, struct hook_edits *more) MUST_USE;
void hook_edits_free(struct hook_edits *list); /* NULL: nothing */

/* Iterates in order; *at starts as 0. What `out` points to stays until the list is changed. */
bool hook_edits_next(const struct hook_edits *list, size_t *at, struct hook_edit *out);
/* 1 << kind of those that are in it; 0 for NULL. */
uint32_t hook_edits_kinds(const struct hook_edits *list);
/* The last one of a kind: for EDIT_ADDRESS, EDIT_PARAMS, EDIT_SENDER the one that counts. */
bool hook_edits_last(
	const struct hook_edits *list, enum hook_edit_kind kind, struct hook_edit *out);

#endif
