/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who somebody says he is in an AUTH exchange (RFC 4954), as far as the client's own lines tell: the
 * identity, never a secret. Other mechanisms than those below tell nothing. Pure; any thread; what
 * was decoded is wiped from memory before a call returns.
 *
 * What stands behind the identity is not judged: a server may forgive what is wrong there, and then
 * it has told the server who it is.
 */
#ifndef SMTP_AUTH_H
#define SMTP_AUTH_H

#include "ring/base.h"

#define SMTP_AUTH_IDENTITY_MAX 255

/* `line`: what the client sent as its response number `turn` (0 for the first, be it the initial
 * response of the AUTH command or the line behind the first 334), without CRLF, still in base64;
 * "=" is an empty one, "*" a cancel. Writes the identity to out[0..SMTP_AUTH_IDENTITY_MAX), cut, and
 * returns its length; 0: this line does not tell.
 *   PLAIN (RFC 4616)         the authentication identity; where it is empty, nothing
 *   LOGIN                    the user name, which is the first response
 *   CRAM-MD5 (RFC 2195)      the user name
 *   XOAUTH2                  user=
 *   OAUTHBEARER (RFC 7628)   the authorization identity, if there is one: the other is in the token
 *   SCRAM-* (RFC 5802)       the user name, its escapes decoded
 *   EXTERNAL (RFC 4422 A)    the authorization identity
 * Mechanisms are compared in any ASCII case. With all of them only the first response tells. An
 * identity with control octets, and invalid base64 (it must be padded; the unused bits of the last
 * octet may be any): nothing. */
size_t smtp_auth_identity(struct span mechanism, uint32_t turn, struct span line, uint8_t *out);

#endif
