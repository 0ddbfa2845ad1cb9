/* SPDX-License-Identifier: MIT */
#include "fake_broker.h"

#include <time.h>

/*
 * What frames a script can ask for. frames = { kind (1 byte) ... } up to their length:
 *
 *   a method with its arguments by their types; a method with any arguments; a whole content, its announced size off
 *   by some; a content header, a body alone; a heartbeat; bytes that are no frame; a frame of any type, with any
 *   size; the end of the connection; a pause; an acknowledgement; an answer twice.
 *
 * channel = 0: the event's, 1: zero, 2: one, else the next two bytes.
 */

enum {
	PAUSE_MAX_MS = 20,
	FRAME_METHOD = 1,
	FRAME_HEADER = 2,
	FRAME_BODY = 3,
	FRAME_HEARTBEAT = 8,
	FRAME_END = 0xce,
};

/* b w d q: numbers of 1, 2, 4 and 8 bytes; s l: short and long strings; t: a table; c: the consumer's tag. */
static const struct method {
	unsigned class_id, method_id;
	const char *arguments;
} methods[] = {
    {10, 10, "bbtll"}, /* connection.start */
    {10, 20, "l"},     /* secure */
    {10, 30, "wdw"},   /* tune */
    {10, 41, "s"},     /* open-ok */
    {10, 50, "wsww"},  /* close */
    {10, 51, ""},      /* close-ok */
    {10, 60, "s"},     /* blocked */
    {10, 61, ""},      /* unblocked */
    {20, 11, "l"},     /* channel.open-ok */
    {20, 20, "b"},     /* flow */
    {20, 40, "wsww"},  /* close */
    {20, 41, ""},      /* close-ok */
    {50, 11, "sdd"},   /* queue.declare-ok */
    {50, 41, "d"},     /* delete-ok */
    {60, 11, ""},      /* basic.qos-ok */
    {60, 21, "c"},     /* consume-ok */
    {60, 30, "cb"},    /* cancel */
    {60, 31, "c"},     /* cancel-ok */
    {60, 50, "wsss"},  /* return */
    {60, 60, "cqbss"}, /* deliver */
    {60, 71, "qbssd"}, /* get-ok */
    {60, 72, "s"},     /* get-empty */
    {60, 80, "qb"},    /* ack */
    {60, 120, "qb"},   /* nack */
    {85, 11, ""},      /* confirm.select-ok */
};

void fake_script_read(struct input *input, struct fake_script *ret_script)
{
	*ret_script = (struct fake_script){.count = input_below(input, FAKE_STEPS_MAX + 1)};
	for (size_t i = 0; i < ret_script->count; i++) {
		struct fake_step *step = &ret_script->steps[i];
		size_t length;

		step->role = input_below(input, FAKE_ROLES + 1); /* the last: any */
		step->event = input_below(input, FAKE_EVENTS);
		step->skip = input_below(input, 4);
		step->when = input_below(input, 3);
		length = input_number(input, 2);
		if (length > input->left)
			length = input->left;
		step->frames = (struct input){.at = input->at, .left = length};
		input->at += length;
		input->left -= length;
	}
}

struct fake_step *fake_script_find(struct fake_script *script, unsigned role, unsigned event)
{
	struct fake_step *found = NULL;

	for (size_t i = 0; i < script->count; i++) {
		struct fake_step *step = &script->steps[i];

		if (step->event != event || (step->role != role && step->role != FAKE_ROLES))
			continue;
		if (step->skip > 0)
			step->skip--;
		else if (!found)
			found = step;
	}
	if (found)
		found->skip = 256; /* once */
	return found;
}

static void pause_ms(unsigned ms)
{
	struct timespec time = {.tv_nsec = ms * 1000000L};

	nanosleep(&time, NULL);
}

static unsigned input_channel(struct input *input, unsigned own)
{
	unsigned which = input_below(input, 8);

	if (which > 3)
		return own;
	return which == 3 ? (unsigned)input_number(input, 2) : which == 0 ? own : which - 1;
}

static void put_text(struct fake_bytes *to, struct input *input, bool is_short)
{
	size_t bytes;
	char *text = input_bytes(input, &bytes);

	if (is_short && bytes > 255)
		bytes = 255;
	fake_number(to, bytes, is_short ? 1 : 4);
	fake_put(to, text, bytes);
	free(text);
}

/* Fields as they are in the input. */
static void put_table(struct fake_bytes *to, struct input *input)
{
	put_text(to, input, false);
}

static void put_arguments(struct fake_bytes *to, struct input *input, const char *types, const char *consumer_tag)
{
	for (; *types; types++) {
		switch (*types) {
		case 'b':
			fake_number(to, input_number(input, 1), 1);
			break;
		case 'w':
			fake_number(to, input_number(input, 2), 2);
			break;
		case 'd':
			fake_number(to, input_number(input, 4), 4);
			break;
		case 'q':
			fake_number(to, input_byte(input), 8);
			break;
		case 't':
			put_table(to, input);
			break;
		case 'c':
			if (input_byte(input) & 1)
				put_text(to, input, true);
			else
				fake_short(to, consumer_tag);
			break;
		default:
			put_text(to, input, *types == 's');
		}
	}
}

static void put_method(struct fake_bytes *to, struct input *input, unsigned own, const char *consumer_tag)
{
	const struct method *method = &methods[input_below(input, sizeof(methods) / sizeof(methods[0]))];
	size_t begin = fake_method(to, input_channel(input, own), method->class_id, method->method_id);

	put_arguments(to, input, method->arguments, consumer_tag);
	fake_end(to, begin);
}

static void put_any_method(struct fake_bytes *to, struct input *input, unsigned own)
{
	unsigned channel = input_channel(input, own), class_id = (unsigned)input_number(input, 2);
	size_t begin = fake_method(to, channel, class_id, (unsigned)input_number(input, 2)), bytes;
	char *arguments = input_bytes(input, &bytes);

	fake_put(to, arguments, bytes);
	fake_end(to, begin);
	free(arguments);
}

static void put_header(struct fake_bytes *to, struct input *input, unsigned channel, uint64_t size)
{
	size_t begin = fake_begin(to, FRAME_HEADER, channel), bytes;
	unsigned class_id = input_byte(input);
	char *properties = input_bytes(input, &bytes);

	fake_number(to, class_id == 0 ? 60 : class_id, 2);
	fake_number(to, 0, 2);
	fake_number(to, size, 8);
	fake_put(to, properties, bytes);
	if (bytes == 0)
		fake_number(to, 0, 2); /* no properties */
	fake_end(to, begin);
	free(properties);
}

static size_t put_body(struct fake_bytes *to, struct input *input, unsigned channel)
{
	size_t begin = fake_begin(to, FRAME_BODY, channel), bytes;
	char *body = input_bytes(input, &bytes);

	fake_put(to, body, bytes);
	fake_end(to, begin);
	free(body);
	return bytes;
}

/* The header is put last, since it says how long the body is; both are as long in any order. */
static void put_content(struct fake_bytes *to, struct input *input, unsigned own, const char *consumer_tag)
{
	static const struct method contents[] = {{60, 60, "cqbss"}, {60, 71, "qbssd"}, {60, 50, "wsss"}};
	const struct method *method = &contents[input_below(input, 3)];
	unsigned channel = input_channel(input, own);
	size_t begin = fake_method(to, channel, method->class_id, method->method_id);
	struct fake_bytes body = {0};
	int off = (int8_t)input_byte(input);
	size_t bytes;

	put_arguments(to, input, method->arguments, consumer_tag);
	fake_end(to, begin);
	bytes = put_body(&body, input, channel);
	put_header(to, input, channel, (uint64_t)((int64_t)bytes + off));
	fake_put(to, body.data, body.count);
	free(body.data);
}

static void put_any_frame(struct fake_bytes *to, struct input *input)
{
	size_t bytes;
	char *payload;

	fake_number(to, input_number(input, 1), 1);
	fake_number(to, input_number(input, 2), 2);
	fake_number(to, input_number(input, 4), 4);
	payload = input_bytes(input, &bytes);
	fake_put(to, payload, bytes);
	fake_number(to, input_byte(input) & 1 ? 0 : FRAME_END, 1);
	free(payload);
}

static void put_raw(struct fake_bytes *to, struct input *input)
{
	size_t bytes;
	char *data = input_bytes(input, &bytes);

	fake_put(to, data, bytes);
	free(data);
}

static void put_confirm(struct fake_bytes *to, struct input *input, unsigned own)
{
	size_t begin = fake_method(to, own, 60, input_byte(input) & 1 ? 120 : 80);

	fake_number(to, input_number(input, 1), 8);
	fake_number(to, input_byte(input) & 1, 1);
	fake_end(to, begin);
}

bool fake_script_put(struct fake_bytes *to, const struct fake_step *step, unsigned channel, const char *consumer_tag)
{
	struct input frames = step->frames, *input = &frames;

	while (input->left > 0) {
		switch (input_below(input, 11)) {
		case 0:
			put_method(to, input, channel, consumer_tag);
			break;
		case 1:
			put_any_method(to, input, channel);
			break;
		case 2:
			put_content(to, input, channel, consumer_tag);
			break;
		case 3:
			put_header(to, input, input_channel(input, channel), input_number(input, 8));
			break;
		case 4:
			put_body(to, input, input_channel(input, channel));
			break;
		case 5:
			fake_end(to, fake_begin(to, FRAME_HEARTBEAT, input_channel(input, 0)));
			break;
		case 6:
			put_raw(to, input);
			break;
		case 7:
			put_any_frame(to, input);
			break;
		case 8:
			put_confirm(to, input, channel);
			break;
		case 9:
			pause_ms(input_below(input, PAUSE_MAX_MS));
			break;
		default:
			return true;
		}
	}
	return false;
}
