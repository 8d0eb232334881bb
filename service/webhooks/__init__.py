"""Webhooks as Standard Webhooks has them (https://www.standardwebhooks.com): where they may go, how they are signed, how they are sent.

What is to be told is in the store (`store.outbox`); a process of its own, `service.courier`, delivers it.
"""
