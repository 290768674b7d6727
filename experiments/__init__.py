"""How the released models are made and judged. Modules here import `src`; nothing in `src` imports them."""
