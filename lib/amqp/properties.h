/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_PROPERTIES_H
#define MQFS_AMQP_PROPERTIES_H

#include <stddef.h>

#include <amqp.h>
#include <mqfs/message.h>

/*
 * A message's properties and headers, to and from librabbitmq's structs. Pure; nothing blocks.
 *
 * Every kind of field value comes through unchanged, with three exceptions that only a stranger's
 * message can need: text behind a NUL in a short string or header name is dropped, tables and arrays nested
 * deeper than PROPERTIES_DEPTH_MAX become void, and unsigned 64-bit values ('L'), which RabbitMQ doesn't
 * know, are sent as signed ones.
 */
#define PROPERTIES_DEPTH_MAX 64

/* Copies everything into message, whose properties must be empty. 0, or -ENOMEM, when it is to be freed. */
int properties_read(const amqp_basic_properties_t *properties, struct mqfs_message *message);

/*
 * The properties to publish message with: persistent, whatever message->delivery_mode says. What they point to
 * belongs to pool and to message. 0, -EINVAL for a text longer than a short string can be, -ENOMEM.
 */
int properties_write(const struct mqfs_message *message, amqp_pool_t *pool, amqp_basic_properties_t *ret_properties);

/* The bytes of a content header frame's payload for this message; a frame of frame_max takes frame_max - 8. */
size_t properties_encoded_bytes(const struct mqfs_message *message);

/* A NUL-terminated copy (up to the first NUL inside); NULL when out of memory. */
char *properties_text(amqp_bytes_t bytes);

#endif
