/* SPDX-License-Identifier: MIT */
#include "request.h"

#include <stdlib.h>
#include <string.h>

#include "db/patient.h"

struct request *request_new(enum request_kind kind, const char *queue, const char *target, int64_t deadline_ms)
{
	size_t queue_bytes = queue ? strlen(queue) + 1 : 0;
	size_t target_bytes = target ? strlen(target) + 1 : 0;
	struct request *request = patient_alloc(sizeof(*request) + queue_bytes + target_bytes);
	char *text;

	request->kind = kind;
	request->deadline_ms = deadline_ms;
	text = (char *)(request + 1);
	if (queue)
		request->queue = memcpy(text, queue, queue_bytes);
	if (target)
		request->target = memcpy(text + queue_bytes, target, target_bytes);
	return request;
}

void request_reset(struct request *request)
{
	if (request->kind == REQUEST_BROWSE)
		for (size_t i = 0; i < request->count; i++)
			mqfs_delivery_unref(request->deliveries[i]);
	if (request->kind == REQUEST_LIST)
		for (size_t i = 0; i < request->count; i++)
			free(request->names[i]);
	free(request->deliveries);
	free(request->names);
	request->deliveries = NULL;
	request->names = NULL;
	request->count = 0;
	request->result = 0;
	request->reason = NULL;
}

void request_complete(struct request *request)
{
	bool good = request->result == 0;

	switch (request->kind) {
	case REQUEST_LIST:
		request->listed(request->arg, request->result, (const char *const *)request->names, request->count);
		break;
	case REQUEST_DEPTHS:
		request->counted(request->arg, request->result, good ? &request->depths : NULL);
		break;
	case REQUEST_BROWSE:
		request->browsed(request->arg, request->result, request->deliveries, request->count);
		request->count = 0; /* the references have passed on */
		break;
	default:
		if (request->done)
			request->done(request->arg, request->result, request->reason);
	}
	request_reset(request);
	mqfs_message_free(request->message);
	if (request->kind == REQUEST_SETTLE)
		mqfs_delivery_unref(request->settle.delivery);
	free(request);
}

bool request_writes(const struct request *request)
{
	switch (request->kind) {
	case REQUEST_FIND:
	case REQUEST_LIST:
	case REQUEST_DEPTHS:
	case REQUEST_BROWSE:
		return false;
	default:
		return true;
	}
}

int request_refuse(struct request *request, int result, const char *reason)
{
	request->result = result;
	request->reason = reason;
	return 0;
}

void request_append(struct request **list, struct request *tail)
{
	while (*list)
		list = &(*list)->next;
	*list = tail;
}

struct request *request_part(struct request **list, bool (*belongs)(const struct request *request, int64_t now_ms),
                             int64_t now_ms)
{
	struct request *part = NULL, **part_end = &part;

	while (*list) {
		if (!belongs(*list, now_ms)) {
			list = &(*list)->next;
			continue;
		}
		*part_end = *list;
		part_end = &(*list)->next;
		*list = *part_end;
		*part_end = NULL;
	}
	return part;
}
