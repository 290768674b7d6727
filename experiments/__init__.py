"""Trains and evaluates the released models. Modules here import `src`; nothing in `src` imports them."""
