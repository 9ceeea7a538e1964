/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Between the handlers of commands: command.c reads lines and has those of the session, mail.c has
 * those of mail transactions.
 */
#ifndef SESSION_COMMAND_H
#define SESSION_COMMAND_H

#include "engine/session/session_int.h"

enum outcome { DONE, LATER };

struct command {
	struct smtp_cmd cmd;
	struct span raw; /* the line with its CRLF */
	size_t behind;	 /* octets received behind it, so far */
};

typedef enum outcome verb_fn(struct session *s, const struct command *c);

/* A reply of ours in its place; the last counts it as a line that is none. */
enum outcome cmd_refuse_with(struct session *s, const struct local_reply *r);
enum outcome cmd_refuse(struct session *s, enum reply_id id);
enum outcome cmd_refuse_bad(struct session *s, enum reply_id id);

/* A line for the upstream and the slot of its reply. The link is there; `_now`: the command as it
 * was written. */
void cmd_pass_line(
	struct session *s, struct span line, enum slot_kind kind, bool sync, struct txn *t);
void cmd_pass_now(
	struct session *s, const struct command *c, enum slot_kind kind, bool sync, struct txn *t);
/* The same when there is a link; LATER: one is being made. */
enum outcome cmd_pass(struct session *s, const struct command *c, enum slot_kind kind, bool sync);

/* False: the line stays where it is. *no: the refusal, or NULL; what else the hooks want is kept
 * with the line. */
bool cmd_ask(struct session *s, struct hook_event ev, const struct local_reply **no);
void cmd_tell(struct session *s, enum hook_point point); /* once for each line */
/* What they want of the transaction as a whole. NULL: it is noted; else why not. */
const struct local_reply *cmd_note_wishes(struct session *s, struct txn *t);

verb_fn secure_on_starttls; /* where TLS ends here */
verb_fn mail_on_mail, mail_on_rcpt, mail_on_data, mail_on_bdat, mail_on_rset;

#endif
