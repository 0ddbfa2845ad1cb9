/* SPDX-License-Identifier: MIT */
#ifndef MQFS_LIB_UTF8_H
#define MQFS_LIB_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Pure helpers for text that strangers sent. Text may hold NULs and need not end in one. */

/* The bytes of the well-formed character (RFC 3629) that text starts with, 0 when there is none. */
size_t utf8_length(const char *text, size_t bytes);

bool utf8_is_valid(const char *text, size_t bytes);

/* Does the character that text starts with, length bytes long, control a terminal (C0, DEL, C1)? */
bool utf8_is_control(const char *text, size_t length);

/* The most bytes, at most max, that text can be cut to without cutting a character. */
size_t utf8_cut(const char *text, size_t bytes, size_t max);

#endif
