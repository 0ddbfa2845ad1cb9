/* SPDX-License-Identifier: MIT */
#include "frames.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_TOPIC "amqp.frames"
#include <mqfs/log.h>

#include "properties.h"

/* RabbitMQ's own ceiling (rabbit.hrl, MAX_MSG_SIZE): what is larger is no message but a broken stream. */
#define BODY_BYTES_MAX (512ull << 20)

void frames_text(amqp_bytes_t from, char *text, size_t bytes)
{
	size_t length = from.len < bytes - 1 ? from.len : bytes - 1;

	for (size_t i = 0; i < length; i++) {
		unsigned char c = ((const unsigned char *)from.bytes)[i];

		text[i] = c < ' ' || c == 0x7f ? '?' : (char)c;
	}
	text[length] = '\0';
}

__attribute__((format(printf, 3, 4))) static int fail(struct frames *frames, int result, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(frames->error, sizeof(frames->error), format, arguments);
	va_end(arguments);
	return result;
}

static int unexpected(struct frames *frames, const char *what)
{
	return fail(frames, -EPROTO, "the broker sent an unexpected %s", what);
}

static struct frame_content *content_free(struct frame_content *content)
{
	free(content->exchange);
	free(content->routing_key);
	mqfs_message_free(content->message);
	free(content);
	return NULL;
}

static void content_drop(struct frames *frames, struct frame_content *content)
{
	HASH_DEL(frames->contents, content);
	content_free(content);
}

static struct frame_content *content_find(struct frames *frames, amqp_channel_t channel)
{
	struct frame_content *content;

	HASH_FIND(hh, frames->contents, &channel, sizeof(channel), content);
	return content;
}

void frames_init(struct frames *frames, const struct frame_events *events, void *arg)
{
	*frames = (struct frames){.events = events, .arg = arg};
}

void frames_reset(struct frames *frames)
{
	struct frame_content *content, *tmp;

	HASH_ITER(hh, frames->contents, content, tmp)
	{
		content_drop(frames, content);
	}
}

void frames_forget(struct frames *frames, amqp_channel_t channel)
{
	struct frame_content *content = content_find(frames, channel);

	if (content)
		content_drop(frames, content);
}

/* ---- content: a method, then its header, then bodies ---- */

static int content_begin(struct frames *frames, amqp_channel_t channel, const struct frame_content *head,
                         amqp_bytes_t exchange, amqp_bytes_t routing_key)
{
	struct frame_content *content;

	if (!frames->events->content || content_find(frames, channel))
		return unexpected(frames, "message");
	content = malloc(sizeof(*content));
	if (!content)
		return fail(frames, -ENOMEM, "out of memory");
	*content = *head;
	content->channel = channel;
	content->exchange = properties_text(exchange);
	content->routing_key = properties_text(routing_key);
	if (!content->exchange || !content->routing_key) {
		content_free(content);
		return fail(frames, -ENOMEM, "out of memory");
	}
	HASH_ADD(hh, frames->contents, channel, sizeof(content->channel), content);
	if (!content->hh.tbl) {
		content_free(content);
		return fail(frames, -ENOMEM, "out of memory");
	}
	return 0;
}

static int on_deliver(struct frames *frames, amqp_channel_t channel, const amqp_basic_deliver_t *deliver)
{
	struct frame_content head = {
	    .kind = FRAME_DELIVER, .tag = deliver->delivery_tag, .redelivered = deliver->redelivered};

	frames_text(deliver->consumer_tag, head.consumer_tag, sizeof(head.consumer_tag));
	return content_begin(frames, channel, &head, deliver->exchange, deliver->routing_key);
}

static int on_get_ok(struct frames *frames, amqp_channel_t channel, const amqp_basic_get_ok_t *get)
{
	struct frame_content head = {.kind = FRAME_GET, .tag = get->delivery_tag, .redelivered = get->redelivered};

	return content_begin(frames, channel, &head, get->exchange, get->routing_key);
}

static int on_return(struct frames *frames, amqp_channel_t channel, const amqp_basic_return_t *returned)
{
	struct frame_content head = {.kind = FRAME_RETURN, .code = returned->reply_code};

	return content_begin(frames, channel, &head, returned->exchange, returned->routing_key);
}

static int content_finish(struct frames *frames, struct frame_content *content)
{
	if (content->body_read < content->body_bytes)
		return 0;
	HASH_DEL(frames->contents, content);
	frames->events->content(frames->arg, content);
	content_free(content);
	return 0;
}

static int on_header(struct frames *frames, const amqp_frame_t *frame)
{
	struct frame_content *content = content_find(frames, frame->channel);

	if (!content || content->message || frame->payload.properties.class_id != AMQP_BASIC_CLASS)
		return unexpected(frames, "content header");
	if (frame->payload.properties.body_size > BODY_BYTES_MAX)
		return fail(frames, -EPROTO, "the broker announced a message of %llu bytes",
		            (unsigned long long)frame->payload.properties.body_size);
	content->body_bytes = frame->payload.properties.body_size;
	content->message = mqfs_message_new();
	if (!content->message || properties_read(frame->payload.properties.decoded, content->message) < 0)
		return fail(frames, -ENOMEM, "out of memory");
	return content_finish(frames, content);
}

static int on_body(struct frames *frames, const amqp_frame_t *frame)
{
	struct frame_content *content = content_find(frames, frame->channel);
	amqp_bytes_t bytes = frame->payload.body_fragment;

	if (!content || !content->message || bytes.len > content->body_bytes - content->body_read)
		return unexpected(frames, "body");
	if (content->kind != FRAME_RETURN &&
	    mqfs_body_write(content->message->body, (size_t)content->body_read, bytes.bytes, bytes.len) < 0)
		return fail(frames, -ENOMEM, "out of memory");
	content->body_read += bytes.len;
	return content_finish(frames, content);
}

/* ---- everything else ---- */

static int on_acked(struct frames *frames, amqp_channel_t channel, uint64_t tag, bool multiple, bool positive)
{
	if (!frames->events->acked)
		return unexpected(frames, "confirm");
	frames->events->acked(frames->arg, channel, tag, multiple, positive);
	return 0;
}

static int on_get_empty(struct frames *frames, amqp_channel_t channel)
{
	if (!frames->events->empty)
		return unexpected(frames, "basic.get-empty");
	frames->events->empty(frames->arg, channel);
	return 0;
}

static int on_cancel(struct frames *frames, amqp_channel_t channel, const amqp_basic_cancel_t *cancel)
{
	char consumer_tag[FRAME_CONSUMER_TAG_BYTES];

	if (!frames->events->cancelled)
		return unexpected(frames, "basic.cancel");
	frames_text(cancel->consumer_tag, consumer_tag, sizeof(consumer_tag));
	frames->events->cancelled(frames->arg, channel, consumer_tag);
	return 0;
}

static int on_channel_close(struct frames *frames, amqp_channel_t channel, const amqp_channel_close_t *close)
{
	amqp_channel_close_ok_t ok = {0};
	char text[256];

	if (!frames->events->channel_closed)
		return unexpected(frames, "channel.close");
	if (amqp_send_method(frames->state, channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok) < 0)
		return fail(frames, -ECONNRESET, "the connection was lost");
	frames_forget(frames, channel);
	frames_text(close->reply_text, text, sizeof(text));
	log_debug("channel %u closed: %u %s", channel, close->reply_code, text);
	frames->events->channel_closed(frames->arg, channel, close->reply_code, text);
	return 0;
}

static int on_connection_close(struct frames *frames, const amqp_connection_close_t *close)
{
	amqp_connection_close_ok_t ok = {0};
	char text[192];

	amqp_send_method(frames->state, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
	frames_text(close->reply_text, text, sizeof(text));
	return fail(frames, -ECONNRESET, "the broker closed the connection: %u %s", close->reply_code, text);
}

static int on_blocked(struct frames *frames, const amqp_connection_blocked_t *blocked)
{
	char reason[128];

	frames_text(blocked->reason, reason, sizeof(reason));
	if (frames->events->blocked)
		frames->events->blocked(frames->arg, reason);
	return 0;
}

static int on_method(struct frames *frames, amqp_channel_t channel, const amqp_method_t *method)
{
	switch (method->id) {
	case AMQP_BASIC_DELIVER_METHOD:
		return on_deliver(frames, channel, method->decoded);
	case AMQP_BASIC_GET_OK_METHOD:
		return on_get_ok(frames, channel, method->decoded);
	case AMQP_BASIC_GET_EMPTY_METHOD:
		return on_get_empty(frames, channel);
	case AMQP_BASIC_RETURN_METHOD:
		return on_return(frames, channel, method->decoded);
	case AMQP_BASIC_ACK_METHOD: {
		const amqp_basic_ack_t *ack = method->decoded;

		return on_acked(frames, channel, ack->delivery_tag, ack->multiple, true);
	}
	case AMQP_BASIC_NACK_METHOD: {
		const amqp_basic_nack_t *nack = method->decoded;

		return on_acked(frames, channel, nack->delivery_tag, nack->multiple, false);
	}
	case AMQP_BASIC_CANCEL_METHOD:
		return on_cancel(frames, channel, method->decoded);
	case AMQP_CHANNEL_CLOSE_METHOD:
		return on_channel_close(frames, channel, method->decoded);
	case AMQP_CHANNEL_CLOSE_OK_METHOD:
		return 0; /* both sides closed it, and librabbitmq took the broker's close for the answer to ours */
	case AMQP_CONNECTION_CLOSE_METHOD:
		return on_connection_close(frames, method->decoded);
	case AMQP_CONNECTION_BLOCKED_METHOD:
		return on_blocked(frames, method->decoded);
	case AMQP_CONNECTION_UNBLOCKED_METHOD:
		if (frames->events->blocked)
			frames->events->blocked(frames->arg, NULL);
		return 0;
	default:
		/* Nothing that the broker sends by itself, and no reply is awaited here. */
		return fail(frames, -EPROTO, "the broker sent an unexpected method 0x%08x", method->id);
	}
}

int frames_dispatch(struct frames *frames, const amqp_frame_t *frame)
{
	switch (frame->frame_type) {
	case AMQP_FRAME_METHOD:
		return on_method(frames, frame->channel, &frame->payload.method);
	case AMQP_FRAME_HEADER:
		return on_header(frames, frame);
	case AMQP_FRAME_BODY:
		return on_body(frames, frame);
	default:
		return 0;
	}
}
