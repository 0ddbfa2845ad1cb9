/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_FUZZ_FAKE_BROKER_H
#define MQFS_TESTS_FUZZ_FAKE_BROKER_H

#include "fuzz.h"

/*
 * A broker that keeps to AMQP 0-9-1 where its script says nothing else (fake_broker.c), and a script of what it does
 * instead, before or after an answer (fake_script.c). It listens on loopback and has a thread of its own.
 *
 * script = count (1 byte) { role event skip when length (2) frames }
 *
 * When the connection of a role (publish, consume, admin, look, any) has sent a certain event (a method, the protocol
 * header, a whole publication) more than skip times, the frames go out: before the usual answer, after it, or instead
 * of it. The frames are written down in fake_script.c.
 */

/* Bytes to be sent. Zero-initialise; free data. */
struct fake_bytes {
	unsigned char *data;
	size_t count, room;
};

void fake_put(struct fake_bytes *to, const void *data, size_t count);
void fake_number(struct fake_bytes *to, uint64_t number, unsigned bytes);
void fake_short(struct fake_bytes *to, const char *text); /* a short string */
/* A frame around what is put in between. */
size_t fake_begin(struct fake_bytes *to, unsigned type, unsigned channel);
void fake_end(struct fake_bytes *to, size_t begin);
/* A method's frame without arguments, or the begin of one with. */
size_t fake_method(struct fake_bytes *to, unsigned channel, unsigned class_id, unsigned method_id);

enum fake_role { FAKE_PUBLISH, FAKE_CONSUME, FAKE_ADMIN, FAKE_LOOK, FAKE_ROLES };

/* What clients send; an event of the script is one of these. */
enum fake_event {
	FAKE_HEADER,
	FAKE_START_OK,
	FAKE_TUNE_OK,
	FAKE_OPEN,
	FAKE_CLOSE,
	FAKE_CHANNEL_OPEN,
	FAKE_CHANNEL_CLOSE,
	FAKE_CHANNEL_CLOSE_OK,
	FAKE_CONFIRM,
	FAKE_DECLARE,
	FAKE_DELETE,
	FAKE_QOS,
	FAKE_CONSUME_METHOD,
	FAKE_CANCEL,
	FAKE_PUBLISHED, /* with its body */
	FAKE_GET,
	FAKE_ACK,
	FAKE_NACK,
	FAKE_EVENTS,
};

/* ---- the script ---- */

#define FAKE_STEPS_MAX 8

struct fake_script {
	struct fake_step {
		unsigned role, event, skip, when;
		struct input frames;
	} steps[FAKE_STEPS_MAX];
	size_t count;
};

enum { FAKE_BEFORE, FAKE_AFTER, FAKE_INSTEAD };

/* Reads one from the front of input, which has to stay where it is. */
void fake_script_read(struct input *input, struct fake_script *ret_script);
/* The step for this event, or NULL. Counts. */
struct fake_step *fake_script_find(struct fake_script *script, unsigned role, unsigned event);
/* Puts a step's frames. channel and consumer_tag are those of the event. true: then the connection is closed. */
bool fake_script_put(struct fake_bytes *to, const struct fake_step *step, unsigned channel, const char *consumer_tag);

/* ---- the broker ---- */

/* Begins to serve; url is for clients. script is used until the end. */
void fake_broker_start(struct fake_script *script);
const char *fake_broker_url(void);
/* So long from now it hangs up on everybody, and takes no new connections. */
void fake_broker_hang_up(int64_t in_ms);
/* Joins its thread. */
void fake_broker_end(void);
/* How many acks and nacks have come. */
unsigned fake_broker_settled(void);

#endif
