/* SPDX-License-Identifier: MIT */
#ifndef MQFS_DB_CODEC_H
#define MQFS_DB_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include <mqfs/message.h>

/*
 * A message's properties and headers as one blob, its head; the body has a column of its own. Pure;
 * nothing blocks.
 */

/* A buffer that only grows, for one head after another. Zero-initialise; free data at the end. */
struct codec_buffer {
	unsigned char *data;
	size_t bytes;
	size_t capacity;
};

/* Replaces what buffer holds. 0, -ENOMEM, -EINVAL (headers nested deeper than 32). */
int codec_encode(const struct mqfs_message *message, struct codec_buffer *buffer);

/*
 * A new message from a head and a body, which are copied. 0; -EIO when the head is damaged or of a
 * version that this program doesn't know; -ENOMEM.
 */
int codec_decode(const void *head, size_t head_bytes, const void *body, size_t body_bytes,
                 struct mqfs_message **ret_message);

#endif
