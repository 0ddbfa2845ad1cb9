/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_FRAMES_H
#define MQFS_AMQP_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#include <amqp.h>
#include <mqfs/message.h>
#include "hash.h"

/*
 * The frame switch: everything that the broker sends of its own accord. librabbitmq reads and decodes one
 * frame after the other; here content is put together (method, header, bodies) and every event goes to
 * the one who asked for it. (Its own message calls can't do this: they stop for ever at the first frame that they
 * don't expect, and never answer a channel.close.) Replies to synchronous calls don't come by here.
 *
 * All of it belongs to the connection's owner thread. An event function may make calls: what
 * comes meanwhile waits in line.
 */

enum frame_content_kind { FRAME_DELIVER, FRAME_GET, FRAME_RETURN };

#define FRAME_CONSUMER_TAG_BYTES 32

struct frame_content {
	amqp_channel_t channel;
	enum frame_content_kind kind;
	uint64_t tag;                                /* DELIVER, GET */
	bool redelivered;                            /* DELIVER, GET */
	char consumer_tag[FRAME_CONSUMER_TAG_BYTES]; /* DELIVER; cut */
	char *exchange;
	char *routing_key;
	int code;                     /* RETURN */
	struct mqfs_message *message; /* RETURN: without its body */
	uint64_t body_bytes;          /* announced */
	uint64_t body_read;
	UT_hash_handle hh; /* by channel, until it is complete */
};

/* A NULL function says that this can't happen on the connection: if it does, the connection is given up. */
struct frame_events {
	/* Complete. What the callee wants to keep (message, exchange, routing_key) it replaces by NULL. */
	void (*content)(void *arg, struct frame_content *content);
	void (*acked)(void *arg, amqp_channel_t channel, uint64_t tag, bool multiple, bool positive);
	void (*empty)(void *arg, amqp_channel_t channel); /* basic.get-empty */
	void (*cancelled)(void *arg, amqp_channel_t channel, const char *consumer_tag);
	void (*channel_closed)(void *arg, amqp_channel_t channel, int code, const char *text); /* answered already */
	void (*blocked)(void *arg, const char *reason);                                        /* NULL: no longer */
};

struct frames {
	amqp_connection_state_t state;
	const struct frame_events *events;
	void *arg;
	struct frame_content *contents; /* uthash, by channel */
	char error[256];                /* why dispatch failed */
};

void frames_init(struct frames *frames, const struct frame_events *events, void *arg);
/* Forgets what was half read: the connection or (frames_forget) the channel is no more. */
void frames_reset(struct frames *frames);
void frames_forget(struct frames *frames, amqp_channel_t channel);

/* 0, or negative, with the reason in frames->error, when the connection has to be given up: -ECONNRESET the broker
 * closed it, -EPROTO, -ENOMEM. */
int frames_dispatch(struct frames *frames, const amqp_frame_t *frame);

/* Copies what may come from a stranger into text, without control characters, cut to fit. */
void frames_text(amqp_bytes_t from, char *text, size_t bytes);

#endif
